"""What a worker does because time has passed, on a clock that the test moves."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from upscaled_models.engine import Settings
from upscaled_models.fake import FakeEngine

if TYPE_CHECKING:
    from worker_in_memory import StartWorker, WorkerInMemory


def send_job(worker: WorkerInMemory, job_id: str, timeout_s: float) -> None:
    config = {"hang": True}
    worker.send({"job_id": job_id, "method": "fake", "timeout_s": timeout_s, "config": config})
    worker.wait_accepted(job_id)


def test_every_job_ends_at_its_deadline_whatever_it_waits_for(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.job("runs on", hang=True)
    worker.wait_accepted("runs on")
    send_job(worker, "waits for the device", 10)
    send_job(worker, "waits for its lane", 10)
    send_job(worker, "too, and longer", 20)
    worker.advance(9)
    assert worker.ask_health()["in_flight"] == 4
    worker.advance(2)
    for job_id in ("waits for the device", "waits for its lane"):
        assert worker.wait_terminal(job_id)["code"] == "deadline_exceeded"
    assert worker.ask_health()["in_flight"] == 2
    worker.advance(10)
    assert worker.wait_terminal("too, and longer")["code"] == "deadline_exceeded"
    assert worker.ask_health()["in_flight"] == 1


def test_a_running_job_ends_at_its_deadline(start_worker: StartWorker) -> None:
    worker = start_worker()
    send_job(worker, "a", 10)
    worker.advance(11)
    assert worker.wait_terminal("a")["code"] == "deadline_exceeded"


class SlowEngine(FakeEngine):
    """Starts when the test allows it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.may_start = threading.Event()

    def start(self) -> None:
        self.may_start.wait()


def test_a_job_ends_at_its_deadline_while_models_load(start_worker: StartWorker) -> None:
    engine = SlowEngine(start_worker.settings)
    worker = start_worker({"fake": engine})
    send_job(worker, "a", 10)
    assert worker.ask_health()["status"] == "loading"
    worker.advance(11)
    assert worker.wait_terminal("a")["code"] == "deadline_exceeded"
    worker.job("b")
    engine.may_start.set()
    assert worker.wait_terminal("b")["type"] == "result"


class IdleEngine(FakeEngine):
    """Counts how often idle models are looked for."""

    idle_trims = 0

    def trim(self, *, idle_only: bool = False) -> None:
        self.idle_trims += idle_only


def test_idle_models_are_unloaded_though_a_host_asks_for_health_all_the_time(
    start_worker: StartWorker,
) -> None:
    engine = IdleEngine(start_worker.settings)
    worker = start_worker({"fake": engine})
    for _ in range(12):
        worker.clock.now += 1
        worker.ask_health()
    assert engine.idle_trims == 2


def test_the_times_of_a_result_are_those_of_the_clock(start_worker: StartWorker) -> None:
    worker = start_worker()
    worker.job("first", hang=True)
    worker.job("second", hang=True)
    worker.wait_accepted("second")
    worker.job("a")
    worker.wait_accepted("a")
    worker.advance(3)
    worker.send(*({"type": "cancel", "job_id": job_id} for job_id in ("first", "second")))
    result = worker.wait_terminal("a")
    assert result["timings"]["queue"] == 3
    assert result["processing_time"] == 0
