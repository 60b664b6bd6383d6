"""Cancels, deadlines, priorities and duplicates: which end a job gets, and when."""

from __future__ import annotations

import signal

import pytest

from simulation import Simulation, simulated

HANG = {"hang": True}


def test_jobs_are_accepted_before_a_worker_is_ready() -> None:
    daemon = Simulation()
    daemon.system.starts = lambda worker: None
    daemon.start()
    daemon.job("a")
    daemon.wait_accepted("a")
    daemon.worker.ready()
    assert daemon.wait_terminal("a")["type"] == "result"
    daemon.close()


def test_the_attempt_that_a_host_names_is_overridden() -> None:
    with simulated() as daemon:
        daemon.job("a", attempt=7)
        assert daemon.wait_terminal("a")["attempt"] == 1


def test_a_cancel_may_come_before_during_and_after_its_job() -> None:
    with simulated() as daemon:
        daemon.cancel("early")
        daemon.job("early", config=HANG)
        assert daemon.wait_terminal("early")["code"] == "cancelled"
        daemon.job("running", config=HANG)
        daemon.job("behind", config=HANG)
        daemon.job("queued")
        daemon.wait_held("behind")
        for name in ("queued", "running", "behind"):
            daemon.cancel(name)
            assert daemon.wait_terminal(name)["code"] == "cancelled"
        for _ in range(2):  # the cancel of the first was too late, and is not kept for the second
            daemon.job("done")
            daemon.settle()
            daemon.cancel("done")
        assert daemon.finish() == 1
        assert [line["type"] for line in daemon.terminals()][-2:] == ["result", "result"]
        assert len(daemon.terminals()) == 6


@pytest.mark.parametrize("reason", ["cancel", "deadline"])
def test_a_job_that_ignores_its_end_is_ended_with_its_worker(reason: str) -> None:
    with simulated("--cancel-grace-s", "10") as daemon:
        timeout_s = 50.0 if reason == "deadline" else None
        config = {"hang": True, "ignore_cancel": True}
        daemon.job("stubborn", config=config, timeout_s=timeout_s)
        daemon.job("beside")
        daemon.wait_held("beside")
        start = daemon.system.time
        if reason == "cancel":
            daemon.cancel("stubborn")
        code = daemon.wait_terminal("stubborn")["code"]
        assert code == ("cancelled" if reason == "cancel" else "deadline_exceeded")
        waited_s = 10.0 if reason == "cancel" else 60.0
        assert daemon.system.time - start == pytest.approx(waited_s, abs=1.0)
        # No attempt is charged to the other job.
        assert daemon.wait_terminal("beside")["attempt"] == 1
        assert daemon.wait_status("worker_restarted")["cause"]["reason"] == reason


def test_a_deadline_ends_a_job_that_runs_and_one_that_waits() -> None:
    with simulated() as daemon:
        for name in ("running", "behind", "queued"):
            daemon.job(name, config=HANG, timeout_s=50.0)
        for name in ("running", "behind", "queued"):
            assert daemon.wait_terminal(name)["code"] == "deadline_exceeded"
        assert len(daemon.workers) == 1


def test_the_highest_priority_is_dispatched_first() -> None:
    with simulated() as daemon:
        for name in ("x", "y"):
            daemon.job(name, config=HANG)
            daemon.wait_held(name)
        for name, priority in (("low", -1), ("normal", 0), ("high", 5)):
            daemon.job(name, config=HANG, priority=priority)
            daemon.wait_accepted(name)
        order = ["x", "y", "high", "normal", "low"]
        for ended, started in zip(order, order[2:], strict=False):
            daemon.cancel(ended)
            daemon.wait_held(started)
        jobs = [one["job_id"] for one in daemon.worker.received if one.get("method")]
        assert jobs == order


def test_the_position_counts_the_jobs_that_go_before() -> None:
    with simulated() as daemon:
        for name in ("x", "y"):
            daemon.job(name, config=HANG)
            daemon.wait_held(name)
        for number, priority in enumerate([0, 5, 0, 5, -3, 2]):
            daemon.job(str(number), priority=priority)
        daemon.cancel("1")
        daemon.job("6")
        positions = [daemon.wait_accepted(str(number))["position"] for number in range(7)]
        assert positions == [0, 0, 2, 1, 4, 2, 4]


def test_a_duplicate_is_refused_without_ending_the_first() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.job("a")
        refusal = daemon.wait_for(lambda line: line.get("code") == "duplicate_job")
        assert (refusal["job_id"], refusal["refused_job_id"]) == (None, "a")
        daemon.worker.finish("a")
        assert daemon.wait_terminal("a")["type"] == "result"


def test_a_method_that_no_worker_serves_is_refused_with_what_it_needs() -> None:
    with simulated() as daemon:
        daemon.job("a", method="face")
        error = daemon.wait_terminal("a")
        assert error["code"] == "unknown_method"
        assert error["error"] == (
            "method 'face' is not served here; served: fake; it needs `pip install "
            "'upscaled[faces]'`; `upscaled doctor` says what is missing"
        )


def test_jobs_go_to_the_worker_that_has_their_model_unless_it_is_busier() -> None:
    with simulated("--workers", "2") as daemon:
        daemon.settle()
        for number in range(8):
            daemon.job(str(number), config={"model": "one" if number % 2 else "two"})
            daemon.wait_terminal(str(number))
        models = [
            {one["config"]["model"] for one in worker.received if "method" in one}
            for worker in daemon.workers
        ]
        assert sorted(map(sorted, models)) == [["one"], ["two"]]
        daemon.job("slow", config={"model": "one", "hang": True})
        daemon.job("other", config={"model": "one"})
        assert daemon.wait_terminal("other")["type"] == "result"


def hold_unread(daemon: Simulation, **config: object) -> None:
    """Have a stopped worker be given the job `a`."""
    daemon.settle()
    daemon.worker.receive_signal(signal.SIGSTOP)
    daemon.job("a", config=config)
    daemon.wait_accepted("a")
    daemon.settle()


def test_a_cancel_that_meets_a_draining_worker_is_not_lost() -> None:
    with simulated() as daemon:
        hold_unread(daemon)
        daemon.cancel("a")
        daemon.settle()
        daemon.worker.send(type="status", message="draining", detail="SIGTERM")
        daemon.worker.send(type="status", message="stopped")
        daemon.worker.receive_signal(signal.SIGKILL)
        assert daemon.wait_terminal("a")["code"] == "cancelled"
        daemon.job("next")
        daemon.wait_terminal("next")


def test_a_cancel_that_meets_the_end_of_its_job_is_not_kept_for_the_next_one() -> None:
    with simulated() as daemon:
        hold_unread(daemon, hang=True)
        daemon.cancel("a")
        daemon.settle()
        daemon.worker.send(type="error", job_id="a", error="?", code="invalid_job", retryable=False)
        assert daemon.wait_terminal("a")["code"] == "invalid_job"
        daemon.worker.receive_signal(signal.SIGKILL)
        daemon.job("a")
        daemon.wait_until(lambda: len(daemon.terminals()) == 2, "second job")
        assert daemon.terminals()[1]["type"] == "result"


@pytest.mark.parametrize("answer", ["stopped", "shutting_down"])
def test_a_job_that_a_draining_worker_has_not_read_costs_no_attempt(answer: str) -> None:
    with simulated() as daemon:
        hold_unread(daemon)
        worker = daemon.worker
        worker.send(type="status", message="draining", detail="SIGTERM")
        if answer == "stopped":
            worker.send(type="status", message="stopped")
        else:
            fields = {"error": "?", "code": "shutting_down", "retryable": True}
            worker.send(type="error", job_id="a", **fields)
        worker.receive_signal(signal.SIGKILL)
        assert daemon.wait_terminal("a")["attempt"] == 1
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause == {"reason": "signal", "signal": "SIGTERM"}
