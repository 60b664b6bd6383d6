"""More jobs than the queue takes: they are held, and everything else goes on."""

from __future__ import annotations

from typing import Any

import pytest

from simulation import simulated

HANG = {"hang": True}


def test_more_lines_than_the_queue_takes_are_all_done() -> None:
    with simulated("--max-queue", "3") as daemon:
        for number in range(50):
            daemon.job(str(number))
        assert daemon.finish() == 0
        assert [line["type"] for line in daemon.terminals()] == ["result"] * 50


def test_requests_are_answered_while_lines_are_held() -> None:
    with simulated("--max-queue", "2") as daemon:
        for name in "abcd":
            daemon.job(name, config=HANG)
        daemon.wait_held("b")
        assert daemon.ask_health()["in_flight"] == 2
        daemon.send({"type": "trim", "request_id": "t"})
        daemon.wait_for(lambda line: line.get("request_id") == "t")
        assert not [line for line in daemon.lines if line.get("job_id") in ("c", "d")]
        daemon.cancel("a", "b")
        for name in "cd":
            daemon.wait_accepted(name)


def test_a_cancel_ends_a_held_job_and_frees_its_id() -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.job("b")
        daemon.cancel("b", "b")
        assert daemon.wait_terminal("b")["code"] == "cancelled"
        daemon.job("b")  # the second cancel is too late, and is not kept for this one
        daemon.cancel("a")
        daemon.wait_for(lambda line: line["type"] == "result" and line["job_id"] == "b")
        kinds = [line["type"] for line in daemon.lines if line.get("job_id") == "b"]
        assert kinds == ["error", "accepted", "result"]


def test_a_job_that_was_cancelled_before_its_line_is_not_held() -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.cancel("b")
        daemon.job("b")
        assert daemon.wait_terminal("b")["code"] == "cancelled"


@pytest.mark.parametrize("fields", [{}, {"method": "nonsense"}, {"timeout_s": 0}])
def test_the_id_of_a_held_job_is_taken(fields: dict[str, Any]) -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.job("b")
        daemon.job("b", **fields)
        refusal = daemon.wait_for(lambda line: line.get("refused_job_id") == "b")
        assert refusal["job_id"] is None
        daemon.cancel("a")
        assert daemon.wait_terminal("b")["type"] == "result"


def test_no_more_is_read_while_the_held_jobs_take_much_memory() -> None:
    with simulated("--max-queue", "1") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        for number in range(100):
            daemon.job(str(number), padding="x" * 1_000_000)
            daemon.settle()
            if daemon.unsent_bytes:
                break
        assert 30 < number < 40  # 32 MiB of lines
        daemon.cancel("a")
        daemon.wait_until(lambda: not daemon.unsent_bytes, "end of the wait")
        assert daemon.wait_terminal(str(number))["type"] == "result"


def test_a_host_that_does_not_read_has_no_more_jobs_run_for_it() -> None:
    with simulated() as daemon:
        daemon.settle()
        daemon.stop_reading()
        for number in range(100):
            daemon.job(str(number), config=HANG)
        daemon.settle()
        for number in range(100):
            if str(number) not in daemon.worker.jobs:
                break
            daemon.worker.fail(str(number), "internal", traceback="x" * 500_000)
            daemon.settle()
        assert 30 < number < 40  # 16 MiB of results
        daemon.resume_reading()
        daemon.wait_held(str(number))
