"""Workers that are replaced while they work: no job is lost, charged or delayed."""

from __future__ import annotations

import signal

import pytest

from simulated_system import SimulatedWorker
from simulation import Simulation, simulated

HANG = {"hang": True}


def loading(worker: SimulatedWorker) -> None:
    """A worker that takes its time: the test calls its `ready`."""


def reload(daemon: Simulation) -> None:
    daemon.system.raise_signal(signal.SIGHUP)


def restarts(daemon: Simulation) -> int:
    return int(daemon.ask_health()["workers"][0]["restarts"])


def test_a_reload_replaces_the_workers_one_by_one() -> None:
    with simulated("--workers", "2") as daemon:
        daemon.settle()
        daemon.system.starts = loading
        reload(daemon)
        daemon.wait_workers(3)
        daemon.run_for(10.0)
        assert len(daemon.workers) == 3
        assert daemon.stderr.count(b"worker_recycled") == 1
        daemon.workers[2].ready()
        daemon.wait_workers(4)
        daemon.workers[3].ready()
        report = daemon.wait_health(lambda one: one["status"] == "ok")
        assert {row["pid"] for row in report["workers"]} == {one.pid for one in daemon.workers[2:]}
        assert [row["last_restart"] for row in report["workers"]] == [{"reason": "reload"}] * 2
        daemon.run_for(60.0)
        assert len(daemon.workers) == 4


def test_the_old_worker_works_until_the_new_one_is_ready_and_then_finishes_its_jobs() -> None:
    with simulated() as daemon:
        daemon.job("long", config=HANG)
        old = daemon.wait_held("long")
        daemon.system.starts = loading
        reload(daemon)
        daemon.wait_workers(2)
        daemon.job("behind")
        daemon.wait_until(lambda: "behind" in old.jobs, "job of the old worker")
        daemon.worker.ready()
        daemon.job("next")
        daemon.wait_terminal("next")
        assert not old.has_exited
        old.finish("long")
        for name in ("long", "behind"):
            assert daemon.wait_terminal(name)["attempt"] == 1
        daemon.wait_until(lambda: old.has_exited, "end of the old worker")
        assert restarts(daemon) == 1


@pytest.mark.parametrize(
    ("options", "reason"),
    [(("--max-jobs", "5"), "job_count"), (("--max-age-s", "100"), "age")],
)
def test_a_worker_past_its_jobs_or_its_age_is_replaced(
    options: tuple[str, str], reason: str
) -> None:
    with simulated(*options) as daemon:
        for number in range(9):
            daemon.job(str(number))
            daemon.run_for(12.0)
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": reason}
        assert len(daemon.workers) == 2
        assert daemon.finish() == 0
        assert [line["attempt"] for line in daemon.terminals()] == [1] * 9


def test_a_new_worker_preloads_the_models_of_the_old_one() -> None:
    with simulated() as daemon:
        daemon.ask_health()
        daemon.run_for(1.0)
        reload(daemon)
        daemon.wait_workers(2)
        assert "--preload=fake" in daemon.worker.argv


def test_a_replacement_that_exits_is_started_once_more_without_the_models() -> None:
    with simulated() as daemon:
        daemon.ask_health()
        old = daemon.worker
        daemon.system.starts = lambda worker: worker.exit(1)
        reload(daemon)
        daemon.wait_workers(3)
        assert "--preload=fake" not in daemon.worker.argv
        daemon.wait_until(lambda: b"replacement_failed" in daemon.stderr, "warning")
        daemon.job("a")
        daemon.wait_terminal("a")
        daemon.run_for(120.0)
        assert daemon.system.living == [old]
        assert len(daemon.workers) == 3
        assert restarts(daemon) == 0


def test_recycling_is_tried_again_a_minute_after_a_replacement_has_failed() -> None:
    with simulated("--max-jobs", "1") as daemon:
        daemon.system.starts = lambda worker: worker.exit(1)
        daemon.job("a")
        daemon.wait_terminal("a")
        daemon.wait_workers(3)  # with the models, and without them
        daemon.run_for(50.0)
        assert len(daemon.workers) == 3
        daemon.system.starts = SimulatedWorker.ready
        daemon.run_for(15.0)
        assert len(daemon.system.living) == 1
        assert restarts(daemon) == 1


def test_a_second_reload_tries_again_at_once() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.system.starts = lambda worker: worker.exit(1)
        reload(daemon)
        daemon.wait_workers(2)
        daemon.wait_until(lambda: b"replacement_failed" in daemon.stderr, "warning")
        daemon.system.starts = SimulatedWorker.ready
        reload(daemon)
        daemon.wait_status("worker_restarted")


def test_a_machine_without_room_for_a_replacement_keeps_the_old_worker() -> None:
    with simulated() as daemon:
        daemon.settle()
        old = daemon.worker
        daemon.system.spawns_fail = True
        reload(daemon)
        daemon.wait_until(lambda: b"replacement_failed" in daemon.stderr, "warning")
        assert daemon.system.living == [old]
        daemon.job("a")
        daemon.wait_terminal("a")


@pytest.mark.parametrize("lacking", [{"unavailable": {"fake": "no luck: pull it"}}, {}])
def test_a_replacement_that_serves_less_takes_over_only_if_files_are_missing(
    lacking: dict[str, object],
) -> None:
    with simulated() as daemon:
        daemon.settle()
        old = daemon.worker
        daemon.system.starts = lambda worker: worker.ready(methods=[], **lacking)
        reload(daemon)
        daemon.wait_workers(2)
        daemon.run_for(20.0)
        assert old.has_exited is bool(lacking)
        assert len(daemon.system.living) == 1


def test_a_replacement_that_lacks_a_model_is_started_again_without_it() -> None:
    def lack_the_model(worker: SimulatedWorker) -> None:
        has_it = "--preload=fake" not in worker.argv
        worker.ready(methods=["fake"] if has_it else [], detail=None if has_it else "no model")

    with simulated() as daemon:
        daemon.ask_health()
        daemon.system.starts = lack_the_model
        reload(daemon)
        daemon.wait_workers(3)
        daemon.wait_status("worker_restarted")
        assert restarts(daemon) == 1


def test_an_old_worker_that_exits_first_has_one_successor() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG | {"only_on_attempt": 1})
        old = daemon.wait_held("a")
        daemon.system.starts = loading
        reload(daemon)
        daemon.wait_workers(2)
        old.receive_signal(signal.SIGKILL)
        daemon.run_for(10.0)
        assert len(daemon.workers) == 2
        daemon.worker.ready()
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert restarts(daemon) == 1
        assert daemon.wait_status("worker_restarted")["cause"]["signal"] == "SIGKILL"


def test_a_promoted_worker_that_exits_while_it_loads_is_started_again() -> None:
    with simulated() as daemon:
        daemon.settle()
        old = daemon.worker
        daemon.system.starts = loading
        reload(daemon)
        daemon.wait_workers(2)
        old.receive_signal(signal.SIGKILL)
        daemon.settle()
        daemon.system.starts = SimulatedWorker.ready
        daemon.worker.exit(1)
        daemon.wait_workers(3)
        daemon.wait_health(lambda one: one["status"] == "ok")


def test_a_worker_that_was_signalled_finishes_its_jobs_beside_its_replacement() -> None:
    """As systemd does, which sends SIGTERM to every process of a service."""
    with simulated() as daemon:
        daemon.job("long", config=HANG)
        old = daemon.wait_held("long")
        old.is_draining = True
        old.send(type="status", message="draining", detail="SIGTERM")
        daemon.job("next")
        assert daemon.wait_terminal("next")["attempt"] == 1
        old.finish("long")
        assert daemon.wait_terminal("long")["attempt"] == 1
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause == {"reason": "signal", "signal": "SIGTERM"}
        assert restarts(daemon) == 1
        assert len(daemon.workers) == 2


def test_an_idle_worker_that_was_signalled_has_one_successor() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.system.starts = loading
        daemon.worker.receive_signal(signal.SIGTERM)
        daemon.run_for(10.0)
        assert len(daemon.workers) == 2
        daemon.worker.ready()
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause == {"reason": "signal", "signal": "SIGTERM"}
        assert restarts(daemon) == 1


def test_a_worker_that_is_signalled_during_a_reload_has_one_successor() -> None:
    with simulated() as daemon:
        daemon.job("long", config=HANG)
        old = daemon.wait_held("long")
        daemon.system.starts = loading
        reload(daemon)
        daemon.wait_workers(2)
        old.is_draining = True
        old.send(type="status", message="draining", detail="SIGTERM")
        daemon.run_for(10.0)
        assert len(daemon.workers) == 2
        daemon.worker.ready()
        daemon.wait_status("worker_restarted")
        assert restarts(daemon) == 1


def test_a_worker_that_grows_is_trimmed_and_then_replaced() -> None:
    with simulated("--memory-limit-mb", "1000") as daemon:
        daemon.job("a")
        daemon.wait_terminal("a")
        daemon.worker.resident_mb = 900.0
        daemon.run_for(5.0)
        assert [one.get("type") for one in daemon.worker.received].count("trim") == 1
        assert len(daemon.workers) == 1
        daemon.worker.resident_mb = 1100.0
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "memory"}
        assert daemon.finish() == 0


def test_a_worker_that_loads_a_model_is_not_taken_to_leak() -> None:
    with simulated("--memory-limit-mb", "1000") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a").resident_mb = 5000.0
        daemon.run_for(5.0)
        assert len(daemon.workers) == 1
        daemon.worker.finish("a")
        daemon.run_for(5.0)
        assert len(daemon.workers) == 1  # that is its baseline now
        daemon.worker.resident_mb = 8000.0
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "memory"}


def test_a_baseline_above_the_limit_is_logged_once_and_recycles_nothing() -> None:
    with simulated("--memory-limit-mb", "50") as daemon:
        for number in range(3):
            daemon.job(str(number), config={"model": str(number)})
            daemon.run_for(5.0)
        assert len(daemon.workers) == 1
        assert daemon.stderr.count(b"memory_baseline_above_limit") == 1


def test_two_workers_that_do_not_fit_in_memory_follow_each_other() -> None:
    with simulated("--max-jobs", "1") as daemon:
        daemon.system.free_mb = 50.0
        daemon.job("first")
        daemon.job("long", config=HANG)
        old = daemon.wait_held("long")
        daemon.run_for(10.0)
        assert len(daemon.workers) == 1
        daemon.job("next")
        old.finish("long")
        assert daemon.wait_terminal("next")["attempt"] == 1
        assert old.has_exited
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "job_count"}
        assert restarts(daemon) == 1
