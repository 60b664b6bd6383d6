"""Engines that cannot start, or lack something, and work later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upscaled_models.fake import FakeEngine
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from worker_in_memory import StartWorker, WorkerInMemory


class MovedEngine(FakeEngine):
    """Cannot start while its files are away."""

    files_are_away = True
    starts = 0
    worker: WorkerInMemory | None = None

    def start(self) -> None:
        self.starts += 1
        if self.starts > 1 and self.worker is not None:
            self.worker.clock.now += 30  # the time that an attempt takes
        if self.files_are_away:
            raise JobError(ErrorCode.MODEL_NOT_FOUND, "the files are away")


def test_a_broken_engine_is_started_again_for_a_job_and_reported_once_it_works(
    start_worker: StartWorker,
) -> None:
    engine = MovedEngine(start_worker.settings)
    worker = start_worker({"fake": engine})
    assert worker.wait_status("degraded")["detail"] == "the files are away"
    ready = worker.wait_status("ready")
    assert ready["methods"] == []
    assert ready["lanes"]["device"]["methods"] == ["fake"]
    assert worker.ask_health()["status"] == "degraded"
    worker.job("a")
    assert worker.wait_terminal("a")["code"] == "model_not_found"
    engine.files_are_away = False
    worker.job("b")
    assert worker.wait_terminal("b")["type"] == "result"
    worker.wait_for(lambda line: line.get("methods") == ["fake"], "another ready")
    assert worker.ask_health()["status"] == "ok"


def test_at_most_half_of_the_time_goes_into_starts_that_fail(start_worker: StartWorker) -> None:
    engine = MovedEngine(start_worker.settings)
    worker = engine.worker = start_worker({"fake": engine})
    for job_id in ("a", "b"):
        worker.job(job_id)
        assert worker.wait_terminal(job_id)["code"] == "model_not_found"
    assert engine.starts == 2, "the second job came right after an attempt of 30 s"
    worker.advance(30)
    worker.job("c")
    assert worker.wait_terminal("c")["code"] == "model_not_found"
    assert engine.starts == 3


class LackingEngine(FakeEngine):
    """Lacks an account as far as it can see."""

    def lacks(self) -> str | None:
        return "no account; set one"


def test_a_method_that_lacks_something_is_unavailable_until_a_job_succeeds(
    start_worker: StartWorker,
) -> None:
    worker = start_worker({"fake": LackingEngine(start_worker.settings)})
    ready = worker.wait_status("ready")
    assert ready["methods"] == []
    assert ready["unavailable"] == {"fake": "no account; set one"}
    worker.job("fails", error_code="upstream_auth")
    worker.wait_terminal("fails")
    for job_id in "ab":
        worker.job(job_id)
        assert worker.wait_terminal(job_id)["type"] == "result"
    assert worker.finish() == 0
    readies = [line for line in worker.lines if line.get("message") == "ready"]
    assert [line["methods"] for line in readies] == [[], ["fake"]]
