"""The answer to `health` and `trim`, and the metrics: never better than the truth."""

from __future__ import annotations

import signal

import pytest
from prometheus_client import CollectorRegistry

from simulation import Simulation, simulated
from upscaled_supervisor.metrics import FleetCollector

HANG = {"hang": True}


def reports(daemon: Simulation) -> list[str | None]:
    return [one.get("request_id") for one in daemon.lines if one["type"] == "health"]


def test_a_stopped_worker_is_unresponsive_until_it_goes_on() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.receive_signal(signal.SIGSTOP)
        report = daemon.ask_health()
        assert report["status"] == "degraded"
        assert report["workers"][0]["state"] == "unresponsive"
        daemon.worker.receive_signal(signal.SIGCONT)
        daemon.wait_health(lambda one: one["status"] == "ok")


def test_a_suspended_supervisor_does_not_take_a_silent_worker_for_a_late_one() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.receive_signal(signal.SIGSTOP)
        daemon.send({"type": "health"})
        daemon.turn()
        daemon.system.time += 5.0
        daemon.turn()
        assert reports(daemon) == []
        daemon.run_for(1.2)
        (report,) = [line for line in daemon.lines if line["type"] == "health"]
        assert report["status"] == "degraded"


def test_a_report_has_a_row_per_worker() -> None:
    with simulated("--workers", "2") as daemon:
        daemon.settle()
        daemon.job("a", config=HANG)
        worker = daemon.wait_held("a")
        report = daemon.ask_health()
        assert report["status"] == "ok"
        rows = {row["pid"]: row for row in report["workers"]}
        assert set(rows) == {one.pid for one in daemon.workers}
        row = rows[worker.pid]
        assert (row["state"], row["jobs"], row["rss_mb"]) == ("busy", ["a"], 100.0)


def test_a_trim_is_answered_when_it_is_done_and_health_does_not_wait_for_it() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.holds_trims_back = True
        daemon.send({"type": "trim", "request_id": "trim"})
        for name in ("one", "two"):
            daemon.send({"type": "health", "request_id": name})
            daemon.run_for(5.0)
        assert reports(daemon) == ["one", "two"]
        daemon.worker.report()
        daemon.wait_until(lambda: len(reports(daemon)) == 3, "answer to the trim")
        assert reports(daemon)[2] == "trim"


def test_every_request_is_answered_once_at_the_end_of_input_too() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.send({"type": "trim", "request_id": "a"}, {"type": "trim", "request_id": "b"})
        daemon.send({"type": "health", "request_id": "c"}, {"type": "trim"})
        assert daemon.finish() == 0
        assert sorted(reports(daemon), key=str) == [None, "a", "b", "c"]


def test_a_trim_of_a_worker_that_does_not_answer_is_answered_all_the_same() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.receive_signal(signal.SIGSTOP)
        daemon.send({"type": "trim", "request_id": "trim"})
        daemon.wait_until(lambda: reports(daemon) == ["trim"], "answer")


@pytest.mark.parametrize("state", ["ready", "stopped"])
def test_the_metrics_count_jobs_restarts_and_the_workers_that_answer(state: str) -> None:
    with simulated() as daemon:
        daemon.job("good")
        daemon.job("crashes", config={"exit_code": 3, "only_on_attempt": 1})
        daemon.job("bad", config=HANG)
        daemon.wait_held("bad").fail("bad", "internal")
        for name in ("good", "crashes", "bad"):
            daemon.wait_terminal(name)
        if state == "stopped":
            daemon.worker.receive_signal(signal.SIGSTOP)
            daemon.ask_health()
        registry = CollectorRegistry()
        supervisor = daemon.supervisor
        registry.register(
            FleetCollector(supervisor._fleet, supervisor._ledger, supervisor._host.outbox)
        )

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(f"upscaled_{name}", labels)

        assert value("jobs_total", method="fake", outcome="completed") == 2
        assert value("jobs_total", method="fake", outcome="internal") == 1
        assert value("worker_restarts_total", reason="exit") == 1
        assert value("job_duration_seconds_count", method="fake") == 3
        assert value("worker_up", worker="0") == (1 if state == "ready" else 0)
        assert value("worker_resident_memory_bytes", worker="0") == 100 * 2**20
        assert value("queue_size") == 0
