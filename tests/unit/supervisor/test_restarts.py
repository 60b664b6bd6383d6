"""A bad job, a bad setting and a bad machine are three different things."""

from __future__ import annotations

import itertools
import signal

import pytest

from simulated_system import SimulatedWorker
from simulation import Simulation, simulated
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.slots import Slot

HANG = {"hang": True}


def dies(worker: SimulatedWorker) -> None:
    worker.receive_signal(signal.SIGKILL)


def fails(worker: SimulatedWorker) -> None:
    worker.log("OSError: too many of something")
    worker.exit(1)


@pytest.fixture
def bad_machine() -> Simulation:
    """A supervisor whose workers are killed before they are ready, not started yet."""
    daemon = Simulation()
    daemon.system.starts = dies
    return daemon


def test_a_worker_that_cannot_start_is_tried_three_times_and_its_reason_is_reported() -> None:
    daemon = Simulation()
    daemon.system.starts = fails
    daemon.start()
    daemon.job("early")
    error = daemon.wait_terminal("early")
    assert error["code"] == "worker_crashed"
    assert "too many of something" in error["error"]
    assert "too many of something" in daemon.wait_status("degraded")["detail"]
    daemon.job("later")
    assert "too many of something" in daemon.wait_terminal("later")["error"]
    assert daemon.ask_health()["status"] == "failed"
    daemon.run_for(100.0)
    assert len(daemon.workers) == 3
    assert daemon.finish() == 3
    daemon.close()


def test_a_reload_tries_a_worker_again_that_was_given_up() -> None:
    daemon = Simulation()
    daemon.system.starts = fails
    daemon.start()
    daemon.wait_health(lambda one: one["status"] == "failed")
    daemon.system.starts = SimulatedWorker.ready
    daemon.system.raise_signal(signal.SIGHUP)
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    assert daemon.finish() == 0
    daemon.close()


def test_one_slot_that_is_given_up_leaves_the_others_to_work() -> None:
    daemon = Simulation("--workers", "2")
    daemon.system.starts = lambda worker: fails(worker) if worker.number != 0 else worker.ready()
    daemon.start()
    report = daemon.wait_health(lambda one: one["workers"][1]["state"] == "stopped")
    assert report["status"] == "degraded"
    assert report["workers"][1]["last_restart"]["exit_code"] == 1
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    assert daemon.finish() == 0
    daemon.close()


def test_restarts_are_delayed_longer_each_time_up_to_a_limit(bad_machine: Simulation) -> None:
    daemon = bad_machine.start()
    starts: list[float] = []

    def note_start(worker: SimulatedWorker) -> None:
        starts.append(daemon.system.time)
        dies(worker)

    daemon.system.starts = note_start
    daemon.run_for(300.0)
    delays = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert delays[0] < 1.0
    assert max(delays) <= 31.0
    assert min(delays[-3:]) >= 15.0
    assert len(starts) < 30
    daemon.close()


def test_a_machine_that_is_bad_for_days_is_tried_at_the_longest_delay() -> None:
    slot = Slot(0, Placement())
    for _ in range(2000):
        slot.plan_restart(Cause("oom_kill"), now=0.0, was_starting=True, has_worked=False)
    assert 15.0 <= slot.respawn_at <= 30.0
    assert not slot.is_given_up


def test_a_bad_machine_is_reported_once_and_recovers_by_itself(bad_machine: Simulation) -> None:
    daemon = bad_machine.start()
    daemon.job("a")
    daemon.wait_accepted("a")
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 4)
    assert "workers keep exiting" in daemon.wait_status("degraded")["detail"]
    report = daemon.ask_health()
    assert report["status"] == "degraded"
    assert "SIGKILL" in report["detail"]
    assert report["workers"][0]["state"] == "backoff"
    assert report["workers"][0]["last_restart"]["signal"] == "SIGKILL"
    daemon.system.starts = SimulatedWorker.ready
    assert daemon.wait_terminal("a")["attempt"] == 1
    assert [line.get("message") for line in daemon.lines].count("degraded") == 1
    report = daemon.ask_health()
    assert (report["status"], report.get("detail")) == ("ok", None)
    assert daemon.finish() == 0
    daemon.close()


def test_a_machine_that_has_recovered_may_drain_before_its_first_job_has_ended(
    bad_machine: Simulation,
) -> None:
    daemon = bad_machine.start()
    daemon.job("a", config=HANG)
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 4)
    daemon.system.starts = SimulatedWorker.ready
    worker = daemon.wait_held("a")
    daemon.close_stdin()
    daemon.wait_status("draining")
    daemon.run_for(5.0)
    worker.finish("a")
    assert daemon.wait() == 0
    daemon.close()


def test_a_job_done_resets_the_delay() -> None:
    with simulated() as daemon:
        for number in range(10):
            daemon.job(str(number))
            daemon.wait_terminal(str(number))
            start = daemon.system.time
            dies(daemon.worker)
            daemon.wait_workers(number + 2)
            assert daemon.system.time - start < 0.1


def test_the_exit_of_a_worker_that_has_done_a_job_is_no_failure_in_a_row() -> None:
    with simulated() as daemon:
        daemon.job("a")
        daemon.wait_terminal("a")
        start = daemon.system.time
        for count in (2, 3):
            dies(daemon.worker)
            daemon.wait_workers(count)
        assert daemon.system.time - start < 0.1
        dies(daemon.worker)
        daemon.wait_workers(4)
        assert daemon.system.time - start >= 0.1


def test_a_pipe_of_jobs_ends_if_no_worker_gets_ready(bad_machine: Simulation) -> None:
    daemon = bad_machine.start()
    daemon.job("a")
    assert daemon.finish() == 3
    error = daemon.wait_terminal("a")
    assert (error["code"], error["retryable"]) == ("worker_crashed", True)
    assert "ended by SIGKILL" in error["error"]
    daemon.close()


def test_a_worker_that_is_not_ready_in_time_is_killed() -> None:
    daemon = Simulation("--start-timeout-s", "100")
    daemon.system.starts = lambda worker: None
    daemon.start()
    daemon.run_for(90.0)
    assert not daemon.worker.has_exited
    daemon.system.starts = SimulatedWorker.ready
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause["reason"] == "load_failed"
    assert "not ready after 100 s" in cause["detail"]
    daemon.close()


@pytest.mark.parametrize("what", ["the fork server", "a worker"])
def test_a_machine_without_room_for_a_process_is_tried_again(what: str) -> None:
    daemon = Simulation()
    daemon.system.has_no_room = what == "the fork server"
    daemon.system.spawns_fail = what == "a worker"
    daemon.start()
    daemon.job("a")
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 2)
    daemon.system.has_no_room = daemon.system.spawns_fail = False
    assert daemon.wait_terminal("a")["attempt"] == 1
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause["reason"] == "load_failed"
    assert "Too many open files" in cause["detail"]
    daemon.close()


def test_a_slot_without_room_leaves_the_others_to_work() -> None:
    with simulated("--workers", "2") as daemon:
        daemon.settle()
        daemon.system.spawns_fail = True
        dies(daemon.workers[0])
        daemon.wait_health(
            lambda one: (one["workers"][0]["last_restart"] or {}).get("reason") == "load_failed"
        )
        daemon.job("a")
        daemon.wait_terminal("a")
        daemon.system.spawns_fail = False
        daemon.wait_health(lambda one: one["status"] == "ok")
        assert len(daemon.workers) == 3


def test_an_engine_that_starts_later_is_announced() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.ready(methods=["esrgan", "fake"])
        daemon.wait_for(lambda line: line.get("methods") == ["esrgan", "fake"])
        daemon.worker.ready(methods=["esrgan", "fake"])
        daemon.settle()
        assert [line.get("message") for line in daemon.lines].count("ready") == 2


def test_an_engine_that_cannot_start_makes_the_fleet_degraded() -> None:
    daemon = Simulation()
    daemon.system.starts = lambda worker: worker.ready(detail="no such model")
    daemon.start()
    assert daemon.wait_status("degraded")["detail"] == "no such model"
    daemon.wait_status("ready")
    assert daemon.ask_health()["status"] == "degraded"
    daemon.close()
