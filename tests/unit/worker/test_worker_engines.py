"""Engines that cannot start, or lack something, and work later."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conversation import TIMEOUT_S
from upscaled_models.engine import Settings
from upscaled_models.fake import FakeEngine
from upscaled_protocol.envelope import WAITING_STAGE
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.log import Logger
from upscaled_worker.engines import Engines

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


class SlowEngine(MovedEngine):
    """Its second start takes until the test allows it to end."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.may_start = threading.Event()

    def start(self) -> None:
        self.files_are_away = self.starts == 0
        super().start()
        assert self.may_start.wait(TIMEOUT_S)


def test_a_job_that_waits_for_the_start_of_its_engine_says_so_and_can_be_cancelled(
    start_worker: StartWorker,
) -> None:
    engine = SlowEngine(start_worker.settings)
    worker = start_worker({"fake": engine})
    try:
        worker.job("starts it")
        assert worker.wait_progress("starts it")["stage"] == "load"
        worker.job("waits")
        assert worker.wait_progress("waits")["stage"] == WAITING_STAGE
        worker.send({"type": "cancel", "job_id": "waits"})
        assert worker.wait_terminal("waits")["code"] == "cancelled"
    finally:
        engine.may_start.set()
    assert worker.wait_terminal("starts it")["type"] == "result"


class RecoveringError(JobError):
    """Its engine starts while the error is being read."""

    engines: Engines | None = None

    def __getattribute__(self, name: str) -> Any:
        if name == "message" and (engines := super().__getattribute__("engines")) is not None:
            engines._broken.pop("fake", None)
        return super().__getattribute__(name)


def test_an_engine_that_starts_while_the_faults_are_listed_fails_no_worker(tmp_path: Path) -> None:
    error = RecoveringError(ErrorCode.MODEL_NOT_FOUND, "the files are away")
    fake = FakeEngine(Settings(model_dir=tmp_path))
    engines = Engines({"fake": fake}, Logger(), on_usable=lambda: None, clock=lambda: 0.0)
    engines._broken |= {"fake": error, "other": error}
    error.engines = engines
    assert engines.faults == "the files are away; the files are away"


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
