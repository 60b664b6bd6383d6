"""How a supervisor ends: its jobs, the lines that wait, its workers, and its exit status."""

from __future__ import annotations

import signal

import pytest

from simulated_system import SimulatedWorker
from simulation import SimulatedPoller, Simulation, simulated

HANG = {"hang": True}


def codes(daemon: Simulation) -> dict[str, str]:
    return {line["job_id"]: line.get("code", "completed") for line in daemon.terminals()}


@pytest.mark.parametrize("end", ["the input ends", "shutdown", "SIGTERM"])
def test_accepted_jobs_are_finished_first(end: str) -> None:
    with simulated("--grace-s", "100") as daemon:
        for name in ("running", "behind", "queued"):
            daemon.job(name, config=HANG)
            daemon.wait_accepted(name)
        if end == "shutdown":
            daemon.send({"type": "shutdown"})
        elif end == "SIGTERM":
            daemon.system.raise_signal(signal.SIGTERM)
        else:
            daemon.close_stdin()
        daemon.wait_status("draining")
        daemon.run_for(50.0)
        for name in ("running", "behind", "queued"):
            daemon.wait_held(name).finish(name)
        assert daemon.wait() == 0
        assert codes(daemon) == dict.fromkeys(("running", "behind", "queued"), "completed")
        assert daemon.lines[-1]["message"] == "stopped"
        assert daemon.system.living == []


def test_jobs_that_the_grace_is_too_short_for_are_answered() -> None:
    with simulated("--grace-s", "25") as daemon:
        for name in ("running", "behind", "queued"):
            daemon.job(name, config=HANG)
            daemon.wait_accepted(name)
        start = daemon.system.time
        daemon.system.raise_signal(signal.SIGTERM)
        assert daemon.wait() == 1
        assert daemon.system.time - start == pytest.approx(25.0, abs=1.0)
        assert codes(daemon) == dict.fromkeys(("running", "behind", "queued"), "shutting_down")
        assert daemon.system.living == []


def test_a_second_signal_ends_it_at_once() -> None:
    with simulated("--grace-s", "1000") as daemon:
        daemon.job("endless", config=HANG)
        daemon.wait_held("endless")
        daemon.system.raise_signal(signal.SIGTERM)
        daemon.wait_status("draining")
        start = daemon.system.time
        daemon.system.raise_signal(signal.SIGINT)
        assert daemon.wait() == 1
        assert daemon.system.time - start < 1.0
        assert codes(daemon) == {"endless": "shutting_down"}


@pytest.mark.parametrize("end", ["the input ends", "shutdown"])
def test_lines_before_the_end_are_done_and_lines_after_it_are_refused(end: str) -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.job("held")
        if end == "shutdown":
            daemon.send({"type": "shutdown"})
            daemon.job("late")
            assert daemon.wait_terminal("late")["code"] == "shutting_down"
        else:
            daemon.close_stdin()
        daemon.wait_status("draining")
        daemon.worker.finish("a")
        daemon.wait()
        assert daemon.wait_terminal("held")["type"] == "result"


def test_a_signal_refuses_the_lines_that_are_held() -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.job("held")
        daemon.ask_health()
        daemon.system.raise_signal(signal.SIGTERM)
        error = daemon.wait_terminal("held")
        assert (error["code"], error["retryable"]) == ("shutting_down", True)
        daemon.worker.finish("a")
        assert daemon.wait() == 1


def test_a_job_may_be_cancelled_while_the_daemon_drains() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.send({"type": "shutdown"})
        daemon.wait_status("draining")
        daemon.cancel("a")
        assert daemon.wait_terminal("a")["code"] == "cancelled"


def test_a_worker_that_does_not_exit_is_killed() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.worker.receive_signal(signal.SIGSTOP)
        start = daemon.system.time
        assert daemon.finish() == 0
        assert daemon.system.time - start == pytest.approx(10.0, abs=1.0)


def test_a_fork_server_that_reports_no_exit_delays_the_end_and_does_not_prevent_it() -> None:
    with simulated() as daemon:
        daemon.settle()
        assert daemon.system.fork_server is not None
        daemon.system.fork_server.is_stopped = True
        start = daemon.system.time
        assert daemon.finish() == 0
        assert daemon.system.time - start == pytest.approx(12.0, abs=1.0)


def test_a_worker_that_still_starts_is_killed_at_once() -> None:
    def load(worker: SimulatedWorker) -> None:
        """Never get ready."""

    daemon = Simulation()
    daemon.system.starts = load
    daemon.start()
    start = daemon.system.time
    assert daemon.finish() == 0
    assert daemon.system.time - start < 1.0
    daemon.close()


def test_a_worker_that_crashes_while_the_daemon_drains_is_replaced_for_its_job() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG | {"only_on_attempt": 1})
        worker = daemon.wait_held("a")
        daemon.close_stdin()
        daemon.wait_status("draining")
        worker.exit(1)
        assert daemon.wait() == 0
        assert daemon.wait_terminal("a")["attempt"] == 2


def test_a_reload_under_way_does_not_delay_the_end() -> None:
    def load(worker: SimulatedWorker) -> None:
        """Never get ready."""

    with simulated() as daemon:
        daemon.settle()
        daemon.system.starts = load
        daemon.system.raise_signal(signal.SIGHUP)
        daemon.wait_workers(2)
        start = daemon.system.time
        assert daemon.finish() == 0
        assert daemon.system.time - start < 1.0


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON\n",
        b'{"job_id":"cut',
        b"[]\n",
        b'{"job_id":"a","method":"nonsense"}\n',
        b'{"job_id":7,"method":"fake"}\n',
        b'{"job_id":"a","method":"fake","config":{"output_text":"%b"}}\n' % (b"x" * 3000),
        b'{"type":"jbo","job_id":"a"}\n',
    ],
)
def test_a_refused_line_counts_for_the_exit_status(line: bytes) -> None:
    with simulated("--line-limit-bytes", "2000") as daemon:
        daemon.job("good")
        daemon.send(line)
        assert daemon.finish() == 1
        assert daemon.wait_terminal("good")["type"] == "result"


def test_a_failed_job_counts_for_the_exit_status() -> None:
    with simulated() as daemon:
        daemon.job("bad", config=HANG)
        daemon.wait_held("bad").fail("bad", "internal")
        assert daemon.finish() == 1


def test_a_host_that_is_gone_ends_it_at_once() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.close_stdout()
        assert daemon.wait() == 4
        assert daemon.system.living == []


def test_wrong_options_of_the_workers_end_it() -> None:
    with simulated() as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.system.report({"usage": "there is no option --foo"})
        assert daemon.wait() == 2
        assert codes(daemon) == {"a": "worker_crashed"}
        [end] = daemon.terminals()
        assert end["error"] == "no worker can be started: there is no option --foo"
        assert not end["retryable"]


def test_wrong_options_of_the_workers_end_jobs_that_wait_for_room() -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.job("held")
        daemon.wait_held("a")
        daemon.system.report({"usage": "there is no option --foo"})
        assert daemon.wait() == 2
        assert [(end["job_id"], end["retryable"]) for end in daemon.terminals()] == [
            ("held", False),
            ("a", False),
        ]


def test_wrong_options_of_the_workers_are_told_also_if_there_is_no_job() -> None:
    daemon = Simulation()
    daemon.system.reads_options = False
    daemon.start()
    daemon.close_stdin()
    daemon.wait_status("draining")
    daemon.run_for(10.0)
    daemon.system.report({"usage": "there is no option --foo"})
    assert daemon.wait() == 2
    daemon.close()


def test_a_signal_ends_it_before_the_options_of_the_workers_are_read() -> None:
    daemon = Simulation()
    daemon.system.reads_options = False
    daemon.start()
    daemon.system.raise_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    daemon.close()


@pytest.mark.parametrize("signals", [1, 2])
def test_last_results_that_are_not_read_are_given_up_after_a_while(signals: int) -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.stop_reading()
        for number in range(20):  # more results than a pipe holds
            daemon.job(str(number), config=HANG)
            daemon.wait_held(str(number)).fail(str(number), "internal", traceback="x" * 10_000)
        for _ in range(signals):
            daemon.system.raise_signal(signal.SIGTERM)
            daemon.turn()
        start = daemon.system.time
        assert daemon.wait() == 1
        limit_s = 10.0 if signals == 1 else 1.0
        assert daemon.system.time - start == pytest.approx(limit_s, abs=0.5)


def test_an_input_that_ends_while_the_last_results_wait_uses_no_processor_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with simulated() as daemon:
        daemon.stop_reading()
        for number in range(20):  # more results than a pipe holds
            daemon.job(str(number), config=HANG)
            daemon.wait_held(str(number)).fail(str(number), "internal", traceback="x" * 10_000)
        daemon.send({"type": "shutdown"})
        while not daemon.supervisor.is_done():
            daemon.turn()
        start, waits = daemon.system.time, 0
        wait = SimulatedPoller.run_once

        def counted(poller: SimulatedPoller, timeout_s: float) -> bool:
            nonlocal waits
            waits += 1
            if waits == 3:
                daemon.close_stdin()
            if waits == 100:
                daemon.resume_reading()
            return wait(poller, timeout_s)

        monkeypatch.setattr(SimulatedPoller, "run_once", counted)
        assert daemon.wait() == 1
        assert daemon.system.time - start > 90  # nearly every wait lasted its whole second
        assert len(daemon.terminals()) == 20
