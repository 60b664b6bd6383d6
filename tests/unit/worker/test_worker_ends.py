"""How a worker ends: drained, by a signal, by the loss of its host or of one of its threads."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from upscaled_models.fake import FakeEngine
from upscaled_worker.job import RunningJob
from upscaled_worker.reports import Reports
from upscaled_worker.stdio import EXIT_HOST_GONE, Stdout
from upscaled_worker.threads import EXIT_FAILED

if TYPE_CHECKING:
    from worker_in_memory import StartWorker, WorkerInMemory


def hang(worker: WorkerInMemory, job_id: str) -> None:
    """Start a job that only a cancel ends."""
    worker.job(job_id, hang=True)
    worker.wait_accepted(job_id)


def cancel(worker: WorkerInMemory, job_id: str) -> None:
    worker.send({"type": "cancel", "job_id": job_id})


def test_shutdown_drains_and_refuses_what_comes_after(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    hang(worker, "a")
    worker.job("held")
    worker.send({"type": "shutdown"}, {"job_id": "late", "method": "fake"})
    assert worker.wait_terminal("late")["code"] == "shutting_down"
    assert worker.ask_health()["status"] == "draining"
    cancel(worker, "a")
    assert worker.wait() == 0
    assert worker.wait_terminal("held")["type"] == "result"
    assert worker.lines[-1]["message"] == "stopped"


def test_held_jobs_are_done_after_the_end_of_input(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    hang(worker, "a")
    worker.job("b")
    worker.send({"job_id": "c", "method": "fake", "timeout_s": 600})
    cancel(worker, "a")
    assert worker.finish() == 0
    for job_id in "bc":
        assert worker.wait_terminal(job_id)["type"] == "result"


def test_end_of_input_answers_every_job_and_every_trim_before(start_worker: StartWorker) -> None:
    worker = start_worker()
    for number in range(20):
        worker.job(str(number))
        worker.send({"type": "trim", "request_id": str(number)})
    assert worker.finish() == 0
    everything = [str(number) for number in range(20)]
    assert sorted((line["job_id"] for line in worker.terminals()), key=int) == everything
    assert [line["request_id"] for line in worker.lines if "request_id" in line] == everything
    assert worker.lines[-1]["message"] == "stopped"


def test_a_signal_drains_and_refuses_the_jobs_that_are_held(start_worker: StartWorker) -> None:
    worker = start_worker(max_queue=1)
    hang(worker, "a")
    worker.job("held")
    worker.ask_health()
    worker.signal(signal.SIGTERM)
    assert worker.wait_status("draining")["detail"] == "SIGTERM"
    error = worker.wait_terminal("held")
    assert (error["code"], error["retryable"]) == ("shutting_down", True)
    worker.job("late")
    assert worker.wait_terminal("late")["code"] == "shutting_down"
    cancel(worker, "a")
    assert worker.wait() == 0


@pytest.mark.parametrize("first", ["signal", "shutdown"])
def test_a_signal_while_draining_ends_the_process_at_once(
    start_worker: StartWorker, first: str
) -> None:
    worker = start_worker()
    hang(worker, "a")
    if first == "signal":
        worker.signal(signal.SIGTERM)
    else:
        worker.send({"type": "shutdown"})
    worker.wait_status("draining")
    worker.signal(signal.SIGINT)
    cancel(worker, "a")
    assert worker.wait() == 128 + signal.SIGINT


def test_a_worker_whose_host_is_gone_exits_with_its_own_status(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.wait_status("ready")
    hang(worker, "a")
    worker.close_stdout()
    assert worker.wait() == EXIT_HOST_GONE


class BrokenStart(FakeEngine):
    """Cannot even name its models."""

    def models(self) -> list[str]:
        raise PermissionError(13, "Permission denied", "/models")


class LeavingStart(FakeEngine):
    """Is left by its library."""

    def models(self) -> list[str]:
        raise SystemExit("a library leaves")


class BrokenTrim(FakeEngine):
    """Fails when the host asks for memory."""

    def trim(self, *, idle_only: bool = False) -> None:
        if not idle_only:
            raise OSError("the device is gone")


def break_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = RunningJob.failure
    calls = 0

    def fail_once(job: RunningJob, *args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("no message")
        return failure(job, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(RunningJob, "failure", fail_once)


def break_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(stdout: Stdout) -> None:
        raise RuntimeError("no more output")

    monkeypatch.setattr(Stdout, "_flush", fail)


def break_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reports: Reports, request_id: str | None) -> None:
        raise RuntimeError("no report")

    monkeypatch.setattr(Reports, "send_health", fail)


@pytest.mark.parametrize("supervised", [False, True])
@pytest.mark.parametrize(
    "fault", [BrokenStart, LeavingStart, BrokenTrim, break_lane, break_stdout, break_loop]
)
def test_a_worker_whose_thread_fails_ends_every_job_once_and_exits_with_the_reason(
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    fault: type[FakeEngine] | object,
    supervised: bool,
) -> None:
    engine = fault if isinstance(fault, type) else FakeEngine
    if not isinstance(fault, type):
        fault(monkeypatch)  # type: ignore[operator]
    worker = start_worker(
        {"fake": engine(start_worker.settings)}, max_queue=3, supervised=supervised
    )
    worker.job("fails", raise_text="boom")
    worker.job("runs", hang=True)
    for number in range(4):
        worker.job(f"waits {number}", hang=True)
    worker.send({"type": "trim"}, {"type": "health"})
    assert worker.wait() == EXIT_FAILED
    assert "the worker failed: " in worker.wait_status("degraded")["detail"]
    logged, reason = capfd.readouterr().err.splitlines()[-2:]
    assert "worker_failed" in logged
    assert reason.startswith("the worker failed: ")
    ended = [line["job_id"] for line in worker.terminals()]
    accepted = [line["job_id"] for line in worker.lines if line["type"] == "accepted"]
    assert len(ended) == len(set(ended))
    if not supervised:
        assert set(accepted) <= set(ended)
        assert worker.lines[-1]["message"] == "stopped"


def test_jobs_for_a_worker_that_has_exited_leave_its_reason_readable(
    start_worker: StartWorker,
) -> None:
    worker = start_worker({"fake": LeavingStart(start_worker.settings)})
    assert worker.wait() == EXIT_FAILED
    worker.job("late")
    assert "a library leaves" in worker.wait_status("degraded")["detail"]
