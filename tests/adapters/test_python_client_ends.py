"""No call of the Python client is left open: bad jobs and daemons, threads, forks, greenlets."""

from __future__ import annotations

import json
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

from upscaled_cli.channel import Channel, RefusedError, line_of
from upscaled_cli.client import Client, DaemonGoneError, ForkedError
from upscaled_protocol.errors import ErrorCode
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
    assert 1 <= len(job["job_id"]) <= 128 and not ascii(job["job_id"]).count("\\\\ud"), job
    if "hold" in job["config"]:
        continue
    if "null" in job["config"]:
        say(type="error", job_id=None, code="invalid_json", error="no id", retryable=False)
    say(type="accepted", job_id=job["job_id"], position=0)
    say(type="result", job_id=job["job_id"], config=job["config"])
    say(type="result", job_id=job["job_id"], config="a second end")
"""


def echo(first: str = "", **options: Any) -> Client:
    return Client([sys.executable, "-SE", "-c", ECHO, first], **options)


@pytest.fixture
def client() -> Iterator[Client]:
    with echo() as client:
        yield client


def run(client: Client, job_id: str | None = None, **config: Any) -> list[Any]:
    """One job's messages, as the thread that submits it receives them."""
    client.submit("fake", config, job_id=job_id)
    about_jobs = [one for one in client.events(TIMEOUT_S) if "job_id" in one]
    return [(one["type"], one["job_id"]) for one in about_jobs]


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


@given(job_id=IDS, value=VALUES, timeout_s=SAID | HOSTILE)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_hostile_job_is_refused_before_it_is_sent_or_gets_its_end(
    client: Client, job_id: Any, value: Any, timeout_s: Any
) -> None:
    try:
        sent = client.submit("fake", {"value": value}, job_id=job_id, timeout_s=timeout_s)
    except RefusedError:
        assert not client.pending
        return
    ends = [one for one in client.events(TIMEOUT_S) if one["type"] == "result"]
    assert [end["job_id"] for end in ends] == [sent]


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
        ({"config": None}, "invalid_job"),
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
    client: Client, job: dict[str, Any], code: str
) -> None:
    with pytest.raises(RefusedError) as refused:
        client.submit(**{"method": "fake", "config": {}} | job)
    assert refused.value.code == code
    assert not client.pending


def test_a_line_of_the_very_limit_is_sent() -> None:
    room = DEFAULT_LINE_LIMIT_BYTES - len(line_of({"x": ""})) + 1
    assert len(line_of({"x": "x" * room})) == DEFAULT_LINE_LIMIT_BYTES + 1  # with its newline
    with pytest.raises(RefusedError):
        line_of({"x": "x" * (room + 1)})


def test_a_file_name_that_is_not_utf_8_is_escaped_byte_for_byte() -> None:
    line = line_of({"image_path": os.fsdecode(b"caf\xe9 \xf0\x9f\x98\x80.png")})
    assert line == b'{"image_path": "caf\\udce9 \xf0\x9f\x98\x80.png"}\n'


def test_an_id_in_flight_is_not_used_twice(client: Client) -> None:
    client.submit("fake", {"hold": True}, job_id="1")
    with pytest.raises(RefusedError) as refused:
        client.submit("fake", {}, job_id="1")
    assert refused.value.code == ErrorCode.DUPLICATE_JOB
    assert client.submit("fake", {"hold": True}) == "2"  # an id of our own avoids it
    assert client.pending == {"1", "2"}


def test_after_the_end_of_the_input_nothing_is_registered(client: Client) -> None:
    client.finish()
    with pytest.raises(ValueError, match="closed"):
        client.submit("fake", {})
    assert not client.pending


# --- threads ------------------------------------------------------------------------------------


def test_each_of_many_threads_receives_its_own_results(client: Client) -> None:
    def jobs_of(thread: int) -> None:
        for number in range(50):
            job_id = f"{thread}-{number}"
            assert run(client, job_id) == [("accepted", job_id), ("result", job_id)]

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(jobs_of, range(8)))
    assert not client.pending


def test_each_of_many_threads_receives_the_answer_that_it_asked_for(client: Client) -> None:
    def ask(thread: int) -> None:
        client.submit("fake", {"hold": True}, job_id=str(thread))
        for number in range(20):
            client.send({"type": "health", "request_id": f"{thread}-{number}"})
            while (message := client.receive(TIMEOUT_S))["type"] != "health":
                pass
            assert message["request_id"] == f"{thread}-{number}"

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(4)))


def test_one_thread_may_receive_for_those_that_only_submit(client: Client) -> None:
    def submit(thread: int) -> None:
        for number in range(50):
            client.submit("fake", {}, job_id=f"{thread}-{number}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(submit, range(4)))
    ends = [one["job_id"] for one in client.events(TIMEOUT_S) if one["type"] == "result"]
    assert len(ends) == len(set(ends)) == 200


def test_a_thread_whose_result_another_has_taken_is_told(client: Client) -> None:
    client.submit("fake", {})
    in_thread(lambda: list(client.events(TIMEOUT_S)))
    with pytest.raises(RuntimeError, match="has received the end of a job"):
        list(client.events(TIMEOUT_S))
    assert run(client, "2") == [("accepted", "2"), ("result", "2")]


def test_what_a_thread_that_ended_left_unread_is_anybodys(client: Client) -> None:
    def look_away() -> None:
        client.submit("fake", {"hold": True}, job_id="held")
        client.submit("fake", {}, job_id="left")
        while client.receive(TIMEOUT_S).get("job_id") != "left":
            pass

    in_thread(look_away)
    while (message := client.receive(TIMEOUT_S)).get("job_id") != "left":
        pass
    assert message["type"] == "result"


def in_thread(call: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(call).result(TIMEOUT_S)


# --- forks and greenlets ------------------------------------------------------------------------


def in_child(call: Callable[[], Any]) -> str:
    """What a call in a forked child raises."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            call()
            os.write(write_fd, b"nothing")
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
@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.submit("fake", {}),
        lambda client: client.receive(),
        lambda client: list(client.events()),
        lambda client: client.send({"type": "health"}),
        lambda client: client.cancel(),
        lambda client: client.finish(),
        lambda client: client.kill(),
    ],
)
def test_a_forked_child_is_refused_at_once(client: Client, call: Callable[[Client], Any]) -> None:
    client.submit("fake", {"hold": True}, job_id="in flight")
    assert in_child(lambda: call(client)) == ForkedError.__name__
    client.send({"type": "health"})
    while client.receive(TIMEOUT_S)["type"] != "health":
        pass


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_leaves_the_context_without_harm(client: Client) -> None:
    assert in_child(lambda: client.__exit__(None, None, None)) == "nothing"
    assert run(client, "1") == [("accepted", "1"), ("result", "1")]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_daemon_ends_with_its_host_though_a_forked_child_lives_on() -> None:
    client = echo()
    go_on, stop = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(stop)
        os.read(go_on, 1)  # a worker of a server that was forked, busy with something else
        os._exit(0)
    client.submit("fake", {"hold": True})
    client.finish()
    with pytest.raises(DaemonGoneError, match="status 0"):
        list(client.events(TIMEOUT_S))
    os.close(stop)
    os.close(go_on)
    os.waitpid(pid, 0)


GREENLETS = f"""
from gevent import monkey; monkey.patch_all()
import gevent, sys
from upscaled_cli.client import Client
ran = []
with Client([sys.executable, "-SE", "-c", {ECHO!r}, "sys.stdin.buffer.readline()"]) as client:
    # The daemon answers only once the other greenlet has run.
    gevent.spawn(lambda: (ran.append(1), client.submit("fake", {{"hold": True}}, job_id="go")))
    def work(number):
        client.submit("fake", {{}}, job_id=str(number))
        return [m["job_id"] for m in client.events({TIMEOUT_S}) if m["type"] == "result"]
    jobs = [gevent.spawn(work, number) for number in range(20)]
    print(sorted(int(job.get()[0]) for job in jobs) == list(range(20)), ran)
"""


def test_under_gevent_other_greenlets_run_while_one_waits() -> None:
    command = [sys.executable, "-W", "ignore", "-c", GREENLETS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert (done.stdout, done.returncode) == ("True [1]\n", 0), done.stderr


# --- daemons ------------------------------------------------------------------------------------


def test_a_silent_daemon_is_not_waited_for_longer_than_one_wants(client: Client) -> None:
    client.submit("fake", {"hold": True})
    with pytest.raises(TimeoutError):
        list(client.events(0.01))


def test_an_answer_without_an_id_ends_no_job(client: Client) -> None:
    assert run(client, "1", null=True) == [("error", None), ("accepted", "1"), ("result", "1")]


@pytest.mark.parametrize("how", ["kill", "__exit__"])
def test_a_close_in_one_thread_ends_the_waits_in_the_others(client: Client, how: str) -> None:
    submitted = threading.Barrier(5)

    def wait(thread: int) -> None:
        client.submit("fake", {"hold": True}, job_id=str(thread))
        submitted.wait(TIMEOUT_S)
        with pytest.raises(DaemonGoneError):
            list(client.events(TIMEOUT_S))

    with ThreadPoolExecutor(4) as threads:
        waits = [threads.submit(wait, thread) for thread in range(4)]
        submitted.wait(TIMEOUT_S)
        getattr(client, how)(*([] if how == "kill" else [None, None, None]))
        for one in waits:
            one.result(TIMEOUT_S)


def test_a_daemon_that_reads_nothing_holds_no_call() -> None:
    with echo("import signal; signal.pause()", close_timeout_s=0) as client:
        for _ in range(3):
            client.submit("fake", {"text": "x" * 2**20})  # far more than a pipe holds
        with pytest.raises(TimeoutError):
            client.receive(0.01)


def test_whatever_happens_to_the_reader_its_end_is_told() -> None:
    ended = threading.Event()
    (read_fd, daemons_end), (daemons_input, write_fd) = os.pipe(), os.pipe()

    def fail(_: object) -> None:
        raise MemoryError

    hook, threading.excepthook = threading.excepthook, lambda _: None
    try:
        channel = Channel(read_fd, write_fd, fail, ended.set)
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
    return f"if not os.path.exists({str(path)!r}): open({str(path)!r}, 'w'); {said}; sys.exit(2)"


def test_jobs_that_a_daemon_had_not_accepted_when_it_failed_go_to_the_next(tmp_path: Path) -> None:
    fails = fails_first(tmp_path / "1", "sys.stdin.buffer.readline()")
    with echo(fails) as client:
        client.send({"type": "health", "request_id": "h"})
        client.submit("fake", {"text": "x" * 2**20}, job_id="large")
        client.submit("fake", {}, job_id="small")
        ends = [one["job_id"] for one in client.events(TIMEOUT_S) if one["type"] == "result"]
        assert ends == ["large", "small"]
    with echo("sys.exit(2)") as client, pytest.raises(DaemonGoneError, match="status 2"):
        run(client)


def test_jobs_are_not_sent_again_once_one_was_accepted(tmp_path: Path) -> None:
    accepted = "say(type='accepted', job_id=json.loads(sys.stdin.buffer.readline())['job_id'])"
    with echo(fails_first(tmp_path / "1", accepted)) as client:
        with pytest.raises(DaemonGoneError):
            run(client)
        assert len(client.pending) == 1


def test_a_cancel_goes_to_the_next_daemon_with_its_job(tmp_path: Path) -> None:
    told = tmp_path / "told"
    fails = fails_first(tmp_path / "1", "sys.stdin.buffer.readlines(2)")
    keeps = f"{fails}\nopen({str(told)!r}, 'wb').writelines(sys.stdin.buffer)"
    with echo(keeps) as client:
        client.submit("fake", {}, job_id="1")
        client.cancel()
        client.finish()
        with pytest.raises(DaemonGoneError):
            list(client.events(TIMEOUT_S))
    sent = [json.loads(line) for line in told.read_bytes().splitlines()]
    assert [row.get("type", "job") for row in sent] == ["job", "cancel"]
