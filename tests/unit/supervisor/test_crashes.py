"""A worker exits or stalls: its jobs are tried again, and only those that may be the reason are
charged with an attempt."""

from __future__ import annotations

import signal

import pytest

from simulation import simulated
from upscaled_supervisor import pipes

HANG = {"hang": True}
HANG_ONCE = {"hang": True, "only_on_attempt": 1}


def test_a_job_passes_through_both_ways() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a").progress("a", 50.0)
        daemon.worker.finish("a")
        daemon.wait_terminal("a")
        assert daemon.finish() == 0
        kinds = [line.get("message") or line["type"] for line in daemon.lines]
        expected = ["loading_models", "ready", "accepted", "progress", "progress", "result"]
        assert kinds == [*expected, "draining", "stopped"]


def test_a_killed_worker_loses_no_job_and_charges_only_those_that_it_had() -> None:
    with simulated() as daemon:
        daemon.job("running", config=HANG_ONCE)
        for number in range(3):
            daemon.job(f"waiting-{number}")
        daemon.wait_held("running").receive_signal(signal.SIGKILL)
        assert daemon.wait_terminal("running")["attempt"] == 2
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause == {"reason": "signal", "signal": "SIGKILL"}
        assert daemon.wait_terminal("waiting-2")["attempt"] == 1
        assert daemon.finish() == 0
        assert len(daemon.terminals()) == 4


def test_progress_does_not_fall_when_a_job_starts_again() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        worker = daemon.wait_held("a")
        worker.progress("a", 70.0)
        worker.exit(1)
        daemon.wait_until(lambda: "a" in daemon.worker.jobs, "second attempt")
        for percent in (10.0, 80.0):
            daemon.worker.progress("a", percent)
        daemon.worker.finish("a")
        daemon.wait_terminal("a")
        percents = [line["progress"] for line in daemon.lines if line["type"] == "progress"]
        assert percents == sorted(percents)
        assert percents[-2:] == [70.0, 80.0]


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        ({"exit_code": 3}, {"reason": "exit", "exit_code": 3}),
        ({"signal": signal.SIGKILL}, {"reason": "signal", "signal": "SIGKILL"}),
        ({"signal": signal.SIGABRT}, {"reason": "signal", "signal": "SIGABRT"}),
    ],
)
def test_a_poison_job_ends_after_two_attempts_and_no_other_job_is_lost(
    config: dict[str, int], cause: dict[str, object]
) -> None:
    with simulated() as daemon:
        daemon.job("before")
        daemon.job("poison", config=config)
        for number in range(5):
            daemon.job(str(number))
        error = daemon.wait_terminal("poison")
        assert (error["code"], error["retryable"], error["attempt"]) == ("poisoned", False, 2)
        assert error["cause"].items() >= cause.items()
        assert daemon.finish() == 1
        others = [line["type"] for line in daemon.terminals() if line["job_id"] != "poison"]
        assert others == ["result"] * 6


def test_a_job_that_is_allowed_one_attempt_is_not_called_poison() -> None:
    with simulated() as daemon:
        daemon.job("a", config={"exit_code": 3}, max_attempts=1)
        error = daemon.wait_terminal("a")
        assert (error["code"], error["retryable"]) == ("worker_crashed", True)


def test_a_kill_by_the_kernel_for_lack_of_memory_is_named() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG, max_attempts=1)
        worker = daemon.wait_held("a")
        daemon.system.oom_kills += 1
        worker.receive_signal(signal.SIGKILL)
        error = daemon.wait_terminal("a")
        assert error["code"] == "out_of_memory"
        assert error["cause"]["reason"] == "oom_kill"


def test_a_job_whose_worker_crashed_runs_alone_the_next_time() -> None:
    with simulated() as daemon:
        daemon.job("crashes", config=HANG_ONCE)
        worker = daemon.wait_held("crashes")
        daemon.system.starts = lambda worker: None
        worker.exit(1)
        daemon.job("other", config=HANG, priority=5)
        daemon.wait_workers(2).ready()
        daemon.wait_held("other")
        daemon.run_for(5.0)
        # The worker has room for a second job, and is reserved for this one.
        assert [*daemon.worker.jobs] == ["other"]
        daemon.worker.finish("other")
        assert daemon.wait_terminal("crashes")["attempt"] == 2


def test_a_reserved_job_can_be_cancelled() -> None:
    with simulated() as daemon:
        daemon.job("crashes", config=HANG)
        worker = daemon.wait_held("crashes")
        daemon.system.starts = lambda worker: None
        worker.exit(1)
        daemon.job("other", config=HANG, priority=5)
        daemon.wait_workers(2).ready()
        daemon.wait_held("other")
        daemon.cancel("crashes")
        assert daemon.wait_terminal("crashes")["code"] == "cancelled"
        daemon.worker.finish("other")
        daemon.job("next")
        assert daemon.wait_terminal("next")["type"] == "result"
        assert len(daemon.terminals()) == 3


def test_a_job_that_runs_alone_waits_for_no_busy_worker_while_another_idles() -> None:
    with simulated("--workers", "2") as daemon:
        daemon.settle()
        daemon.job("endless", config=HANG)
        daemon.wait_held("endless")
        daemon.job("crashes", config=HANG_ONCE)
        worker = daemon.wait_held("crashes")
        daemon.system.starts = lambda worker: None
        worker.exit(1)
        daemon.run_for(5.0)  # it is reserved for the busy worker
        daemon.wait_workers(3).ready()
        assert daemon.wait_terminal("crashes")["attempt"] == 2


def test_a_job_reserved_for_a_worker_that_exits_is_not_charged() -> None:
    with simulated() as daemon:
        for name in ("crashed", "beside"):
            daemon.job(name, config=HANG_ONCE)
        daemon.wait_held("beside")
        daemon.job("first", config=HANG, priority=5)
        daemon.wait_accepted("first")
        daemon.worker.receive_signal(signal.SIGKILL)
        daemon.wait_workers(2)
        worker = daemon.wait_held("first")
        daemon.run_for(1.0)  # "crashed" is reserved for this worker
        # The end of "first" and the exit of its worker arrive together.
        worker.fail("first", "internal")
        worker.receive_signal(signal.SIGKILL)
        assert daemon.wait_terminal("first")["code"] == "internal"
        end = daemon.wait_terminal("crashed")
        assert (end["type"], end["attempt"]) == ("result", 2)


def test_a_stalled_worker_is_replaced_and_only_the_stalled_job_is_charged() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("stuck", config=HANG_ONCE)
        daemon.job("next")
        daemon.wait_held("next")
        start = daemon.system.time
        assert daemon.wait_terminal("stuck")["attempt"] == 2
        assert daemon.system.time - start == pytest.approx(30.0, abs=1.0)
        assert daemon.wait_terminal("next")["attempt"] == 1
        assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "stall"


def test_a_worker_stopped_by_a_signal_is_killed_after_the_time_for_its_stacks() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("a", config=HANG_ONCE)
        daemon.wait_held("a").receive_signal(signal.SIGSTOP)
        start = daemon.system.time
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert daemon.system.time - start == pytest.approx(32.0, abs=1.0)


def test_progress_extends_the_budget_and_may_name_a_longer_one() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("a", config=HANG)
        worker = daemon.wait_held("a")
        for _ in range(3):
            daemon.run_for(25.0)
            worker.progress("a", 10.0)
        worker.progress("a", 10.0, stage="load", budget_s=500.0)
        daemon.run_for(490.0)
        worker.finish("a")
        assert daemon.wait_terminal("a")["attempt"] == 1


def test_a_job_that_waits_for_the_device_does_not_stall() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("long", config=HANG)
        daemon.job("behind")
        worker = daemon.wait_held("behind")
        for _ in range(10):
            daemon.run_for(20.0)
            worker.progress("long", 10.0)
        worker.finish("long")
        assert daemon.wait_terminal("behind")["attempt"] == 1


def test_the_stall_clock_of_a_job_that_waited_restarts_when_the_device_is_free() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("long", config=HANG)
        daemon.job("behind", config={"silent": True})
        worker = daemon.wait_held("behind")
        for _ in range(3):
            daemon.run_for(20.0)
            worker.progress("long", 10.0)
        worker.finish("long")
        daemon.run_for(20.0)
        worker.finish("behind")
        assert daemon.wait_terminal("behind")["attempt"] == 1


def test_a_lane_of_which_every_job_waits_is_a_stall() -> None:
    with simulated("--stall-timeout-s", "30") as daemon:
        daemon.job("a", config=HANG_ONCE)
        daemon.wait_held("a").progress("a", stage="waiting")
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "stall"


def test_time_in_which_the_supervisor_was_suspended_is_no_stall() -> None:
    with simulated("--stall-timeout-s", "30", "--cancel-grace-s", "10") as daemon:
        daemon.job("a", config=HANG | {"ignore_cancel": True})
        worker = daemon.wait_held("a")
        daemon.run_for(20.0)
        daemon.system.time += 3600.0
        daemon.run_for(5.0)
        worker.progress("a", 50.0)
        daemon.cancel("a")
        daemon.run_for(5.0)
        daemon.system.time += 3600.0
        daemon.run_for(1.0)
        worker.finish("a")
        assert daemon.wait_terminal("a")["type"] == "result"
        assert len(daemon.workers) == 1


@pytest.mark.parametrize(
    "garbage",
    [
        b"Segmentation fault\n",
        b"\0\xff\n",
        b"[1]\n",
        b"{}\n",
        b'{"type":"riddle"}\n',
        b'{"type":"status"}\n',
        b'{"type":"status","message":"ready"}\n',
        b'{"type":"progress","job_id":"a"}\n',
        b'{"type":"result"}\n',
    ],
)
def test_a_worker_that_writes_garbage_is_replaced(garbage: bytes) -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG_ONCE)
        daemon.wait_held("a").write(garbage)
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "protocol_violation"


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["without end", "with an end"])
def test_a_worker_that_writes_an_endless_line_is_replaced(
    monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr(pipes, "MAX_STDOUT_LINE_BYTES", 1000)
    with simulated() as daemon:
        daemon.job("a", config=HANG_ONCE)
        daemon.wait_held("a").write(b"x" * 1001 + end)
        assert daemon.wait_terminal("a")["attempt"] == 2
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause["reason"] == "protocol_violation"
        assert "it wrote a line of more than" in cause["detail"]


def test_a_job_whose_worker_always_writes_garbage_is_poison() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        for number in (1, 2):
            worker = daemon.wait_workers(number)
            daemon.wait_held("a")
            worker.write(b"garbage\n")
        error = daemon.wait_terminal("a")
        assert (error["code"], error["cause"]["reason"]) == ("poisoned", "protocol_violation")


def test_a_worker_whose_output_ends_is_killed_after_a_while() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG_ONCE)
        worker = daemon.wait_held("a")
        worker.close_stdout()
        daemon.settle()
        daemon.job("b")
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert daemon.wait_terminal("b")["attempt"] == 1
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause["detail"] == "its output has ended"


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"result","job_id":"unknown","status":"completed"}\n',
        b'{"type":"result","job_id":"done","status":"completed"}\n',
        b'{"type":"error","job_id":null,"error":"?","code":"internal","retryable":false}\n',
    ],
)
def test_the_end_of_a_job_that_a_worker_does_not_have_is_ignored(line: bytes) -> None:
    with simulated() as daemon:
        daemon.job("done")
        daemon.wait_terminal("done")
        daemon.job("a", config=HANG)
        daemon.wait_held("a").write(line)
        daemon.wait_until(lambda: b"worker_line_unexpected" in daemon.stderr, "warning")
        daemon.worker.finish("a")
        assert daemon.wait_terminal("a")["attempt"] == 1
        assert len(daemon.terminals()) == 2


@pytest.mark.parametrize(
    ("exit_code", "oom_kills", "reason", "attempt"),
    [(-9, 0, "signal", 1), (1, 0, "exit", 1), (-9, 1, "oom_kill", 2)],
)
def test_a_fork_server_that_ends_is_started_again_and_jobs_are_charged_for_memory_only(
    exit_code: int, oom_kills: int, reason: str, attempt: int
) -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        assert daemon.system.fork_server is not None
        daemon.system.oom_kills += oom_kills
        daemon.system.fork_server.end(exit_code)
        daemon.wait_workers(2)
        daemon.wait_held("a").finish("a")
        assert daemon.wait_terminal("a")["attempt"] == attempt
        assert daemon.system.fork_servers_started == 2
        assert daemon.wait_status("worker_restarted")["cause"]["reason"] == reason


def test_a_fork_server_that_reports_no_exit_is_killed() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG_ONCE)
        worker = daemon.wait_held("a")
        assert daemon.system.fork_server is not None
        daemon.system.fork_server.is_stopped = True
        worker.receive_signal(signal.SIGKILL)
        assert daemon.wait_terminal("a")["attempt"] == 2
        assert daemon.system.fork_servers_started == 2


def test_a_worker_may_be_ready_before_the_fork_server_reports_its_pid() -> None:
    with simulated() as daemon:
        daemon.settle()
        assert daemon.system.fork_server is not None
        daemon.worker.receive_signal(signal.SIGKILL)
        daemon.wait_workers(2)
        daemon.system.fork_server.is_stopped = True
        daemon.wait_health(lambda one: one["workers"][0]["pid"] == daemon.worker.pid)
