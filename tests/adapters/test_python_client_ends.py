"""No call of the Python client is left open: bad jobs and daemons, threads, forks, greenlets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from upscaled import (
    Call,
    DaemonGoneError,
    DeadlineExceededError,
    ForkedError,
    InvalidJobError,
    JobCancelledError,
    NoAnswerError,
    ShuttingDownError,
    Upscaler,
)
from upscaled.channel import Channel
from upscaled.jobline import line_of
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES

TIMEOUT_S = 60.0

# Answers each job that it can name, and nothing else. Its first argument is Python code.
ECHO = """
import json, os, sys
def say(**message): print(json.dumps(message), flush=True)
exec(sys.argv[1])
say(type="status", message="ready")
for line in sys.stdin.buffer:
    job = json.loads(line)
    if job.get("type") == "health":
        say(type="health", queue_size=0, request_id=job.get("request_id"))
        continue
    if job.get("type") == "cancel":
        continue
    assert 1 <= len(job["job_id"]) <= 128 and not ascii(job["job_id"]).count("\\\\ud"), job
    if "hold" in job["config"]:
        continue
    if "null" in job["config"]:
        say(type="error", job_id=None, code="invalid_json", error="no id", retryable=False)
    say(type="accepted", job_id=job["job_id"], position=0)
    if "accept" in job["config"]:
        continue
    if "progress" in job["config"]:
        say(type="progress", job_id=job["job_id"], progress=50.0, stage="tile")
    say(type="result", job_id=job["job_id"], model=str(job["config"].get("model")))
    say(type="result", job_id=job["job_id"], model="a second end")
"""


def echo(first: str = "", **options: Any) -> Upscaler:
    command = [sys.executable, "-SE", "-c", ECHO, first]
    return Upscaler(command=command, **{"cancel_grace_s": 0.05, "close_timeout_s": 0.1} | options)


@pytest.fixture
def up() -> Iterator[Upscaler]:
    with echo() as up:
        yield up


def submit(up: Upscaler, job_id: str | None = None, **config: Any) -> Call[None]:
    return up.submit_job({"job_id": job_id, "method": "fake", "config": config})


def run(up: Upscaler, job_id: str | None = None, **config: Any) -> str | None:
    """The model that one job's result names."""
    return submit(up, job_id, **config).result(TIMEOUT_S).model


# --- what cannot be sent ------------------------------------------------------------------------


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def cyclic() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


SAID = st.text() | st.integers() | st.floats() | st.booleans() | st.none()
BAD_VALUES: list[Any] = [
    *(b"bytes", {"a set"}, Path("a path"), object(), 10**400, -(10**5000), float("nan"), 1j),
    *(nested(900), nested(1020), nested(1200), nested(100_000), cyclic(), {None: 1}),
    *("\ud83d", "\ude00", "\udce9", "caf\udcc3\udca9", {("a", "b"): 1}, {"\ud83d": 1}),
]
# By index: some of them cannot even be shown.
HOSTILE = st.integers(0, len(BAD_VALUES) - 1).map(lambda index: BAD_VALUES[index])
VALUES = st.recursive(SAID | HOSTILE, lambda inner: st.lists(inner) | st.dictionaries(SAID, inner))
IDS = SAID | HOSTILE | st.text(min_size=1, max_size=130) | st.sampled_from(["x" * 128, "é" * 129])


@given(job_id=IDS, value=VALUES, timeout_s=st.none() | SAID | HOSTILE)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_hostile_job_is_refused_before_it_is_sent_or_gets_its_end(
    up: Upscaler, job_id: Any, value: Any, timeout_s: Any
) -> None:
    job = {"job_id": job_id, "method": "fake", "config": {"value": value}, "timeout_s": timeout_s}
    try:
        call = up.submit_job(job)
    except InvalidJobError:
        return
    try:
        assert call.result(TIMEOUT_S).job_id == call.job_id
    except DeadlineExceededError:
        assert timeout_s is not None


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"job_id": 5}, "invalid_job"),
        ({"job_id": b"a"}, "invalid_job"),
        ({"job_id": ""}, "invalid_job"),
        ({"job_id": "x" * 129}, "invalid_job"),
        ({"job_id": "cut \ud83d"}, "invalid_job"),
        ({"job_id": "caf\udce9"}, "invalid_job"),
        ({"method": None}, "invalid_job"),
        ({"method": "esrgan", "config": None}, "invalid_job"),
        ({"timeout_s": 0}, "invalid_job"),
        ({"timeout_s": True}, "invalid_job"),
        ({"config": {"prompt": "cut \ud83d"}}, "invalid_job"),
        ({"config": {"step_s": float("inf")}}, "invalid_job"),
        ({"config": {"image_path": Path("a.png")}}, "invalid_job"),
        ({"config": {"x": cyclic()}}, "invalid_job"),
        ({"type": "cancel"}, "invalid_job"),
        ({"config": {"x": nested(1025)}}, "invalid_json"),
        ({"config": {"x": nested(100_000)}}, "invalid_json"),
        ({"config": {"x": 10**400}}, "invalid_json"),
        ({"config": {"x": "x" * DEFAULT_LINE_LIMIT_BYTES}}, "line_too_long"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_code(
    up: Upscaler, job: dict[str, Any], code: str
) -> None:
    with pytest.raises(InvalidJobError) as refused:
        up.submit_job({"method": "fake", "config": {}} | job)
    assert refused.value.code == code
    assert up.pid is None  # not even a daemon was started


def test_a_line_of_the_very_limit_is_sent() -> None:
    room = DEFAULT_LINE_LIMIT_BYTES - len(line_of({"x": ""})) + 1
    assert len(line_of({"x": "x" * room})) == DEFAULT_LINE_LIMIT_BYTES + 1  # with its newline
    with pytest.raises(InvalidJobError):
        line_of({"x": "x" * (room + 1)})


def test_a_file_name_that_is_not_utf_8_is_escaped_byte_for_byte() -> None:
    line = line_of({"image_path": os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.png")})
    assert line == b'{"image_path":"caf\\udce9 \xf0\x9f\x98\x80.png"}\n'


def test_an_id_in_flight_is_not_used_twice(up: Upscaler) -> None:
    submit(up, "1", hold=True)
    with pytest.raises(InvalidJobError) as refused:
        submit(up, "1")
    assert refused.value.code == "duplicate_job"


def test_a_closed_client_takes_no_job() -> None:
    with echo() as up:
        run(up)
    with pytest.raises(ShuttingDownError, match="closed"):
        submit(up)
    with pytest.raises(DaemonGoneError, match="closed"):
        up.health()
    with pytest.raises(DaemonGoneError, match="closed"):
        echo_closed().start()


def echo_closed() -> Upscaler:
    up = echo()
    up.close()
    return up


def test_a_daemon_is_started_by_the_first_call_alone(up: Upscaler) -> None:
    assert up.pid is None
    run(up)
    assert up.pid is not None


# --- threads ------------------------------------------------------------------------------------


def test_a_daemon_that_finds_its_usage_wrong_after_its_first_line_is_started_once(
    tmp_path: Path,
) -> None:
    count = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"
    first = f"{count}; say(type='status', message='loading_models'); sys.exit(2)"
    with echo(first, restart_delay_s=0.0) as up, pytest.raises(DaemonGoneError) as gone:
        run(up)
    assert gone.value.status == 2
    assert (tmp_path / "starts").read_text() == "x"


def test_each_of_many_threads_receives_its_own_results(up: Upscaler) -> None:
    def jobs_of(thread: int) -> list[str | None]:
        return [run(up, model=f"{thread}-{number}") for number in range(50)]

    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(jobs_of, range(8)))
    assert models == [[f"{thread}-{number}" for number in range(50)] for thread in range(8)]


def test_each_of_many_threads_receives_the_answer_that_it_asked_for(up: Upscaler) -> None:
    with ThreadPoolExecutor(8) as threads:
        reports = list(threads.map(lambda _: up.health(TIMEOUT_S), range(100)))
    assert sorted(int(report.request_id or 0) for report in reports) == list(range(1, 101))


def test_a_call_yields_its_progress_and_a_callback_gets_it_too(up: Upscaler) -> None:
    seen: list[float] = []
    job = {"method": "fake", "config": {"progress": True}}
    call = up.submit_job(job, lambda progress: seen.append(progress.progress))
    assert [progress.progress for progress in call] == [50.0]
    assert [progress.progress for progress in call] == [50.0]  # later too: the latest one
    assert seen == [50.0]


def test_what_a_callback_raises_ends_no_call(
    up: Upscaler, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    job = {"method": "fake", "config": {"progress": True}}
    assert up.submit_job(job, fail).result(TIMEOUT_S).job_id
    assert "ZeroDivisionError" in caplog.text


def test_a_callback_that_waits_for_a_job_is_told_so_and_may_submit_one(up: Upscaler) -> None:
    told: list[BaseException] = []
    submitted: list[Call[None]] = []

    def wait_inside(_: object) -> None:
        submitted.append(submit(up))
        for wait in (submitted[0].result, up.health, up.close):
            try:
                wait()
            except RuntimeError as error:
                told.append(error)

    job = {"method": "fake", "config": {"progress": True}}
    assert up.submit_job(job, wait_inside).result(TIMEOUT_S).job_id
    assert submitted[0].result(TIMEOUT_S).job_id
    assert len(told) == 3


# --- forks and greenlets ------------------------------------------------------------------------


def in_child(call: Callable[[], Any]) -> str:
    """What a call in a forked child returns or raises."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(write_fd, str(call()).encode())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the parent asks for it
            os.write(write_fd, type(error).__name__.encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    with open(read_fd, "rb") as raised:  # noqa: PTH123 - a descriptor
        said = raised.read().decode()
    os.waitpid(pid, 0)
    return said


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_a_daemon_of_its_own_and_the_parents_goes_on(up: Upscaler) -> None:
    held = submit(up, "in flight", hold=True)
    run(up)
    parents = up.pid

    def use() -> object:
        assert up.pid is None
        assert run(up, "in flight", model="mine") == "mine"
        assert up.pid not in (None, parents)
        up.close()
        return "its own"

    assert in_child(use) == "its own"
    assert in_child(lambda: held.result(TIMEOUT_S)) == ForkedError.__name__
    assert run(up, model="here") == "here"
    assert up.pid == parents
    assert not held.done()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_many_forks_in_the_middle_of_many_calls_end_no_call(up: Upscaler) -> None:
    stop = threading.Event()

    def keep_calling(thread: int) -> int:
        count = 0
        while not stop.is_set():
            assert run(up, model=str(thread)) == str(thread)
            count += 1
        return count

    with ThreadPoolExecutor(4) as threads:
        counts = [threads.submit(keep_calling, thread) for thread in range(4)]
        try:
            for number in range(10):
                assert in_child(lambda: run(up, model="child")) == "child", number
        finally:
            stop.set()
        assert all(count.result(TIMEOUT_S) for count in counts)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_daemon_ends_with_its_host_though_a_forked_child_lives_on() -> None:
    with echo(close_timeout_s=TIMEOUT_S) as up:
        run(up)
        go_on, stop = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(stop)
            os.read(go_on, 1)  # a worker of a server that was forked, busy with something else
            os._exit(0)
        up.close()  # it would take its whole time if the child held the daemon's input
        os.close(stop)
        os.close(go_on)
        os.waitpid(pid, 0)


GREENLETS = f"""
from gevent import monkey; monkey.patch_all()
import gevent, sys
from upscaled import Upscaler
ran = []
command = [sys.executable, "-SE", "-c", {ECHO!r}, "sys.stdin.buffer.readline()"]
def job(**config): return {{"method": "fake", "config": config}}
with Upscaler(command=command) as up:
    # The daemon answers only once the other greenlet has run.
    gevent.spawn(lambda: (ran.append(1), up.submit_job(job(hold=True)).cancel()))
    def work(number):
        return up.submit_job(job(model=str(number))).result({TIMEOUT_S}).model
    works = [gevent.spawn(work, number) for number in range(20)]
    print([int(one.get()) for one in works] == list(range(20)), ran)
    up.kill()
"""

UNPATCHED = """
import gevent, sys
from upscaled import Upscaler
up = Upscaler(command=["/does/not/exist"])
def work():
    try:
        up.submit_job({"method": "fake"})
    except RuntimeError as error:
        return "patch_all" in str(error)
print(gevent.spawn(work).get(), [1])
"""


@pytest.mark.parametrize("program", [GREENLETS, UNPATCHED], ids=["patched", "unpatched"])
def test_under_gevent_other_greenlets_run_while_one_waits_or_it_is_told_how(program: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.returncode) == ("True [1]\n", 0), done.stderr


# --- daemons ------------------------------------------------------------------------------------


def test_a_silent_daemon_is_not_waited_for_longer_than_one_wants(up: Upscaler) -> None:
    call = submit(up, hold=True)
    with pytest.raises(TimeoutError):
        call.result(0.01)
    call.cancel()
    with pytest.raises(JobCancelledError, match="did not confirm"):
        call.result(TIMEOUT_S)
    job = {"method": "fake", "config": {"accept": True}, "timeout_s": 0.01}
    with pytest.raises(DeadlineExceededError, match="did not confirm"):
        up.submit_job(job).result(TIMEOUT_S)


def test_a_question_without_an_answer_has_an_end() -> None:
    silent = echo("import signal; signal.pause()", close_timeout_s=0)
    with silent as up, pytest.raises(NoAnswerError):
        up.health(0.01)


def test_an_answer_without_an_id_ends_no_job(up: Upscaler) -> None:
    assert run(up, null=True, model="its own") == "its own"


@pytest.mark.parametrize("how", ["kill", "close"])
def test_an_end_in_one_thread_ends_the_waits_in_the_others(up: Upscaler, how: str) -> None:
    calls = [submit(up, hold=True) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        waits = [threads.submit(call.exception, TIMEOUT_S) for call in calls]
        getattr(up, how)()
        assert {type(one.result(TIMEOUT_S)) for one in waits} == {DaemonGoneError}


def test_a_daemon_that_reads_nothing_holds_no_call() -> None:
    with echo("import signal; signal.pause()", close_timeout_s=0) as up:
        calls = [submit(up, text="x" * 2**20) for _ in range(3)]  # far more than a pipe holds
        calls[0].cancel()
        calls[2].cancel()  # it waits in the client, so it ends at once
        with pytest.raises(JobCancelledError):
            calls[2].result(TIMEOUT_S)
        with pytest.raises(JobCancelledError):
            calls[0].result(TIMEOUT_S)
        up.kill()
        with pytest.raises(DaemonGoneError):
            calls[1].result(TIMEOUT_S)


def test_whatever_happens_to_the_reader_its_end_is_told() -> None:
    ended = threading.Event()
    (read_fd, daemons_end), (daemons_input, write_fd) = os.pipe(), os.pipe()

    class Failing:
        def on_message(self, _: object) -> None:
            raise MemoryError

        def on_room(self) -> None: ...
        def on_input_lost(self) -> None: ...
        def on_end(self, _: object) -> None:
            ended.set()

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        channel = Channel(read_fd, write_fd, Failing())
        channel.start()
        os.write(daemons_end, b'{"type":"status"}\n')
        assert ended.wait(TIMEOUT_S)
        channel.close()
        channel.join(TIMEOUT_S)
    finally:
        threading.excepthook = hook
        os.close(daemons_end)
        os.close(daemons_input)


def fails_first(path: Path, *words: str) -> str:
    """Code of a daemon whose first start fails after these words."""
    said = "; ".join(words)
    return f"if not os.path.exists({str(path)!r}): open({str(path)!r}, 'w'); {said}; sys.exit(3)"


QUICK: dict[str, Any] = {"restart_delay_s": 0.001, "attempts": 2}


def test_a_daemon_that_never_starts_ends_every_call() -> None:
    with echo("sys.exit('no room')", **QUICK) as up:
        calls = [submit(up) for _ in range(3)]
        for call in calls:
            with pytest.raises(DaemonGoneError, match="no room"):
                call.result(TIMEOUT_S)
        with pytest.raises(DaemonGoneError, match="no room"):
            up.start()
    sentence = "/does/not/exist cannot be started"
    with (
        Upscaler(command=["/does/not/exist"]) as up,
        pytest.raises(DaemonGoneError, match=sentence),
    ):
        submit(up).result(TIMEOUT_S)


ACCEPT = "say(type='accepted', job_id=json.loads(sys.stdin.buffer.readline())['job_id'])"


def test_a_job_that_was_accepted_is_not_sent_again_and_its_error_is_retryable(
    tmp_path: Path,
) -> None:
    with echo(fails_first(tmp_path / "1", ACCEPT), **QUICK) as up:
        with pytest.raises(DaemonGoneError, match="status 3") as gone:
            run(up)
        assert gone.value.retryable
        assert run(up, model="next") == "next"


# Answers what it is asked for by `replay`, as a supervisor does from its journal.
REPLAYS = """
job_ids = json.loads(sys.stdin.buffer.readline())["job_ids"]
for job_id in job_ids: say(type="result", job_id=job_id, model="from the journal")
"""


def test_with_a_journal_an_accepted_job_ends_as_the_next_daemon_says(tmp_path: Path) -> None:
    code = fails_first(tmp_path / "1", ACCEPT) + REPLAYS
    with echo(code, journal=tmp_path / "jobs.db", **QUICK) as up:
        assert run(up) == "from the journal"


# Keeps the next two lines that it reads, and says that the job was cancelled.
OBEYS = """
lines = [json.loads(sys.stdin.buffer.readline()) for _ in range(2)]
said = ", ".join(line["type"] for line in lines)
say(type="error", job_id=lines[1]["job_id"], code="cancelled", error=said)
"""


def test_a_cancel_goes_to_the_next_daemon_with_its_job(tmp_path: Path) -> None:
    code = fails_first(tmp_path / "1", ACCEPT, "sys.stdin.buffer.readline()") + OBEYS
    with echo(code, journal=tmp_path / "jobs.db", cancel_grace_s=TIMEOUT_S, **QUICK) as up:
        call = submit(up)
        call.cancel()
        with pytest.raises(JobCancelledError, match="replay, cancel"):
            call.result(TIMEOUT_S)
