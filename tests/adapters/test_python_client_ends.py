"""No call of the Python client is left open if its daemon is silent, deaf, or gone."""

from __future__ import annotations

import gc
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest

from echo_daemon import TIMEOUT_S, echo, run, submit
from upscaled import (
    Call,
    DaemonGoneError,
    DeadlineExceededError,
    JobCancelledError,
    NoAnswerError,
    ShuttingDownError,
    Upscaler,
)
from upscaled.channel import Channel
from waiting import wait_until


@pytest.fixture
def up() -> Iterator[Upscaler]:
    with echo() as client:
        yield client


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


# Ends the first job as soon as it is cancelled.
CANCELLED = """
job_id = json.loads(sys.stdin.buffer.readline())["job_id"]
kind = json.loads(sys.stdin.buffer.readline())["type"]
say(type="error", job_id=job_id, code="cancelled", error=f"by a {kind}", retryable=False)
"""


def test_an_upscale_whose_wait_is_interrupted_cancels_its_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Call[Any]] = []

    def interrupt(call: Call[Any], timeout: float | None = None) -> NoReturn:
        calls.append(call)
        raise KeyboardInterrupt

    monkeypatch.setattr(Call, "result", interrupt)
    with echo(CANCELLED, cancel_grace_s=TIMEOUT_S) as up:
        with pytest.raises(KeyboardInterrupt):
            up.upscale("in.png", "out.png")
        assert "by a cancel" in str(calls[0].exception(TIMEOUT_S))


# Ends the first job once the pipe of its model is opened.
GO_ON = """
job = json.loads(sys.stdin.buffer.readline())
say(type="accepted", job_id=job["job_id"], position=0)
open(job["config"]["model"]).read()
say(type="result", job_id=job["job_id"], model="whole")
"""


def test_a_daemon_whose_upscaler_does_not_exist_any_more_ends_its_calls_and_then_itself(
    tmp_path: Path,
) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    up = echo(GO_ON)
    call = submit(up, model=str(go_on))
    assert up.pid is not None
    daemon = psutil.Process(up.pid)
    del up
    gc.collect()
    go_on.write_text("")
    assert call.result(TIMEOUT_S).model == "whole"
    wait_until(lambda: not daemon.is_running(), "the daemon's end")


def test_a_question_without_an_answer_has_an_end() -> None:
    silent = echo("import signal; signal.pause()", close_timeout_s=0)
    with silent as up, pytest.raises(NoAnswerError):
        up.health(0.01)


def test_an_answer_without_an_id_ends_no_job(up: Upscaler) -> None:
    assert run(up, null=True, model="its own") == "its own"


def submit_until_closed(up: Upscaler) -> None:
    """Raises `ShuttingDownError` once a close has begun."""
    while True:
        submit(up, text="x" * 2**20).cancel()


def test_times_without_a_limit_are_waited_for(tmp_path: Path) -> None:
    (tmp_path / "go").touch()
    reads = "import time\nwhile os.path.exists({!r}): time.sleep(0.01)"  # once the file is gone
    first = reads.format(str(tmp_path / "go"))
    up = echo(first, close_timeout_s=math.inf, cancel_grace_s=math.inf)
    calls = [submit(up, text="x" * 2**20) for _ in range(3)]  # far more than a pipe holds
    with ThreadPoolExecutor(1) as threads:
        closed = threads.submit(up.close)
        with pytest.raises(ShuttingDownError):
            submit_until_closed(up)
        (tmp_path / "go").unlink()
        closed.result(TIMEOUT_S)
    assert [call.result(TIMEOUT_S).model for call in calls] == ["None"] * 3


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


def test_whatever_happens_to_the_reader_its_end_is_reported() -> None:
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


def test_a_replay_that_is_asked_for_while_there_is_no_daemon_is_the_next_ones(
    tmp_path: Path,
) -> None:
    replayed = threading.Event()

    def listen(message: dict[str, Any]) -> None:
        if message.get("job_id") == "kept":
            replayed.set()

    code = fails_first(tmp_path / "1", ACCEPT) + REPLAYS
    with echo(code, on_message=listen, restart_delay_s=0.1, attempts=2) as up:
        with pytest.raises(DaemonGoneError):
            run(up)
        up.replay(["kept"])
        assert replayed.wait(TIMEOUT_S)


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


def test_a_daemon_that_finds_its_usage_wrong_after_its_first_line_is_started_once(
    tmp_path: Path,
) -> None:
    count = f"open({str(tmp_path / 'starts')!r}, 'a').write('x')"
    first = f"{count}; say(type='status', message='loading_models'); sys.exit(2)"
    with echo(first, restart_delay_s=0.0) as up, pytest.raises(DaemonGoneError) as gone:
        run(up)
    assert gone.value.status == 2
    assert (tmp_path / "starts").read_text() == "x"
