"""What a worker does with its host's lines, without a process."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from conversation import TIMEOUT_S
from upscaled_models.engine import Context, Outcome
from upscaled_models.fake import FakeEngine
from upscaled_protocol.configs import FakeConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import FakeJob, Progress
from upscaled_worker.job import RunningJob
from upscaled_worker.lanes import Lane
from upscaled_worker.turns import Turns

if TYPE_CHECKING:
    from worker_in_memory import StartWorker, WorkerInMemory


def start_hanging(worker: WorkerInMemory, *job_ids: str) -> None:
    """Start jobs that only a cancel ends."""
    for job_id in job_ids:
        worker.job(job_id, hang=True)
    for job_id in job_ids:
        worker.wait_accepted(job_id)


def cancel(worker: WorkerInMemory, *job_ids: str) -> None:
    worker.send(*({"type": "cancel", "job_id": job_id} for job_id in job_ids))


def kinds_of(worker: WorkerInMemory, job_id: str) -> list[str]:
    kinds = [line["type"] for line in worker.lines if line.get("job_id") == job_id]
    return [kind for kind in kinds if kind != "progress"]


def test_a_job_is_accepted_and_ends_in_one_result(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.job("a", steps=3)
    assert worker.wait_terminal("a")["status"] == "completed"
    assert worker.finish() == 0
    assert kinds_of(worker, "a") == ["accepted", "result"]
    assert [line["message"] for line in worker.lines if line["type"] == "status"] == [
        "loading_models",
        "ready",
        "draining",
        "stopped",
    ]


def test_ready_tells_protocol_version_methods_and_lanes(start_worker: StartWorker) -> None:
    ready = start_worker().wait_status("ready")
    assert ready["protocol"] == 1
    assert ready["methods"] == ["fake"]
    assert ready["lanes"]["device"] == {"methods": ["fake"], "slots": 2}
    assert ready["pid"] == os.getpid()


def test_a_supervised_worker_leaves_accepted_to_its_supervisor(start_worker: StartWorker) -> None:
    worker = start_worker(supervised=True)
    worker.job("a")
    worker.wait_terminal("a")
    assert kinds_of(worker, "a") == ["result"]
    cancel(worker, "b")
    worker.job("b")
    assert worker.wait_terminal("b")["type"] == "result"


def test_a_cancel_before_its_job_is_remembered(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    start_hanging(worker, "a")
    cancel(worker, "b")
    worker.job("b")  # it needs no room
    assert worker.wait_terminal("b")["code"] == "cancelled"
    assert kinds_of(worker, "b") == ["accepted", "error"]


def test_a_cancel_stops_a_running_job_and_the_next_one_is_unaffected(
    start_worker: StartWorker,
) -> None:
    worker = start_worker()
    start_hanging(worker, "a")
    cancel(worker, "a")
    assert worker.wait_terminal("a")["code"] == "cancelled"
    worker.job("b", steps=2)
    assert worker.wait_terminal("b")["type"] == "result"


def test_a_cancel_ends_a_job_that_waits_for_its_lane_or_the_device(
    start_worker: StartWorker,
) -> None:
    worker = start_worker()
    start_hanging(worker, "runs", "waits for the device", "waits for its lane")
    for job_id in ("waits for its lane", "waits for the device"):
        cancel(worker, job_id)
        assert worker.wait_terminal(job_id)["code"] == "cancelled"
    assert kinds_of(worker, "runs") == ["accepted"]


def test_a_cancel_after_its_job_changes_nothing_for_the_next_of_that_id(
    start_worker: StartWorker,
) -> None:
    worker = start_worker()
    worker.job("a")
    worker.wait_terminal("a")
    cancel(worker, "a")
    worker.job("a")
    worker.finish()
    assert kinds_of(worker, "a") == ["accepted", "result"] * 2


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ({"job_id": "a", "method": "fake"}, "duplicate_job"),
        ({"job_id": "a", "method": "nonsense"}, "unknown_method"),
        ({"job_id": "a", "method": "esrgan", "config": {"image_path": "a.png"}}, "unknown_method"),
        ({"job_id": "a", "method": "fake", "timeout_s": 0}, "invalid_job"),
    ],
)
@pytest.mark.parametrize("state", ["running", "held"])
def test_a_refused_line_does_not_end_the_job_that_has_its_id(
    start_worker: StartWorker, state: str, line: dict[str, Any], code: str
) -> None:
    worker = start_worker(max_queue=1)
    start_hanging(worker, "first" if state == "held" else "a")
    if state == "held":
        worker.job("a", hang=True)
    worker.send(line)
    refusal = worker.wait_for(lambda one: one.get("refused_job_id") == "a")
    assert refusal["job_id"] is None
    assert refusal["code"] == code
    cancel(worker, "first", "a")
    assert worker.wait_terminal("a")["code"] == "cancelled"


def test_higher_priority_starts_first(start_worker: StartWorker) -> None:
    worker = start_worker()
    start_hanging(worker, "x", "y")
    # One of them waits for the other: both slots are taken.
    worker.wait_for(lambda line: line["type"] == "progress")
    for name, priority in (("low", -1), ("normal", 0), ("high", 5)):
        job = {"job_id": name, "method": "fake", "priority": priority, "config": {"hang": True}}
        worker.send(job)
        worker.wait_accepted(name)
    for leaves, comes in (("x", "high"), ("y", "normal"), ("high", "low")):
        cancel(worker, leaves)
        worker.wait_progress(comes)  # that it waits for the device
    begun = [line["job_id"] for line in worker.lines if line["type"] == "progress"]
    assert [one for one in dict.fromkeys(begun) if one not in "xy"] == ["high", "normal", "low"]


def test_health_and_trim_are_answered_while_a_job_runs(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    worker.job("a", model="some-model")
    worker.wait_terminal("a")
    worker.job("b", model="some-model", hang=True)
    worker.job("held")
    worker.wait_accepted("b")
    worker.advance(2.5)
    report = worker.ask_health()
    assert (report["status"], report["in_flight"], report["uptime_s"]) == ("ok", 1, 2.5)
    assert report["models_loaded"] == ["some-model"]
    worker.send({"type": "trim", "request_id": "t"})
    assert worker.wait_for(lambda line: line.get("request_id") == "t")["models_loaded"] == []


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"raise_text": "boom"}, "internal"),
        ({"error_code": "upstream_quota"}, "upstream_quota"),
        ({"out_of_memory": True}, "out_of_memory"),
        ({"output_path": "/proc/nowhere/out.txt"}, "output_unwritable"),
    ],
)
def test_a_failing_job_gives_one_error_and_the_next_works(
    start_worker: StartWorker, config: dict[str, Any], code: str
) -> None:
    worker = start_worker()
    worker.job("bad", **config)
    worker.job("good")
    error = worker.wait_terminal("bad")
    assert error["code"] == code
    assert ("traceback" in error) == (code == "internal")
    assert worker.wait_terminal("good")["type"] == "result"


class BusyEngine(FakeEngine):
    """Fails in a way that may pass, or not, whatever the code says."""

    def run(self, config: FakeConfig, context: Context) -> Outcome:
        is_retryable = config.model == "passing"
        raise JobError(ErrorCode.INTERNAL, "busy", retryable=is_retryable)


@pytest.mark.parametrize(("model", "is_retryable"), [("passing", True), ("lasting", False)])
def test_an_error_is_as_retryable_as_its_engine_says(
    start_worker: StartWorker, model: str, is_retryable: bool
) -> None:
    worker = start_worker({"fake": BusyEngine(start_worker.settings)})
    worker.job("a", model=model)
    assert worker.wait_terminal("a")["retryable"] is is_retryable


def test_jobs_that_there_is_no_room_for_are_done_in_their_order(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    for number in range(50):
        worker.job(str(number))
    assert worker.finish() == 0
    accepted = [line["job_id"] for line in worker.lines if line["type"] == "accepted"]
    assert accepted == [str(number) for number in range(50)]
    assert len(worker.terminals()) == 50


def test_a_cancel_ends_a_job_that_is_held(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    start_hanging(worker, "a")
    worker.job("b")
    cancel(worker, "b", "b")
    assert worker.wait_terminal("b")["code"] == "cancelled"
    worker.job("b")  # its id is free again, and the second cancel was not meant for it
    cancel(worker, "a")
    worker.wait_for(lambda line: line["type"] == "result" and line["job_id"] == "b")
    assert kinds_of(worker, "b") == ["error", "accepted", "result"]


def test_a_host_that_stops_reading_gets_every_result_later(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled_worker.stdio._UNREAD_LIMIT_BYTES", 4096)
    worker = start_worker()
    worker.wait_status("ready")
    worker.stop_reading()
    for number in range(300):
        worker.job(str(number), steps=3)
    worker.resume_reading()
    worker.finish()
    ends = [line["job_id"] for line in worker.terminals()]
    assert sorted(ends, key=int) == [str(number) for number in range(300)]


def test_the_output_appears_whole(start_worker: StartWorker, tmp_path: Path) -> None:
    worker = start_worker()
    target = tmp_path / "out.txt"
    worker.job("a", output_path=str(target), output_text="whole")
    assert worker.wait_terminal("a")["output_path"] == str(target)
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


def test_no_job_of_a_paused_lane_starts() -> None:
    checks = 0
    is_paused, started = True, threading.Event()
    failures: list[BaseException] = []

    def check() -> bool:
        nonlocal checks, is_paused
        checks += 1
        if checks == 3:
            assert not started.is_set()
            is_paused = False
        return is_paused

    lane = Lane("device", 1, lambda _: started.set(), check, failures.append)
    message = FakeJob(job_id="a", method="fake")
    lane.submit(RunningJob(message, lane.turns, lambda _: None, lambda: 0.0))
    lane.start()
    lane.open()
    assert started.wait(TIMEOUT_S)
    assert not is_paused, "the job started while the lane was paused"
    lane.close()
    lane.join()
    assert not failures


def test_progress_never_falls_and_is_sent_at_most_50_times_per_second() -> None:
    now = 100.0
    sent: list[Progress] = []
    message = FakeJob(job_id="a", method="fake")
    job = RunningJob(message, Turns(), sent.append, lambda: now)
    for percent in (10.0, 20.0, 5.0, 30.0):
        job.progress(percent, "step")
        now += 0.015
    job.progress(25, "encode")
    job.progress(100, "encode")
    assert [one.progress for one in sent] == [10, 20, 30, 100]
