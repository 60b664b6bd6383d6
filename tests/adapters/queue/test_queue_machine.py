"""One machine on a queue, as a user sees it: a real Redis, a real daemon with the fake engine."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from free_ports import free_port
from queue_fleet import Fleet, needs_redis, running_fleet
from upscaled_queue.command import main
from waiting import wait_until

pytestmark = needs_redis

# Short, so that a job of three leases is short too; Redis is searched once a second.
LEASE_S = 2.0
ENDLESS_S = 600.0


@pytest.fixture(scope="module", params=["redis", "bullmq"], ids=["celery", "bullmq"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """One machine with two slots, for all tests of this file that leave it as it was."""
    with running_fleet(request.param, tmp_path_factory.mktemp("queue")) as fleet:
        fleet.metrics_port = free_port()
        metrics = ("--metrics-address", f"127.0.0.1:{fleet.metrics_port}")
        options = ("--lease-s", str(LEASE_S), "--slots", "1", *metrics)
        fleet.start_machine(*options, daemon=["--workers", "2"]).wait_ready()
        yield fleet


def test_twenty_jobs_have_a_result_each_with_the_protocols_fields(shared: Fleet) -> None:
    ids = [f"smoke-{number}" for number in range(20)]
    shared.submit(*(shared.job(job_id) for job_id in ids))
    shared.check_each_has_one_result(ids)
    end = shared.end_of("smoke-0")
    assert end["status"] == "completed"
    assert end["output_path"] == str(shared.outputs / "smoke-0")
    assert {"processing_time", "timings", "model", "device", "attempt", "warnings"} <= set(end)


def test_metrics_tell_what_waits_and_what_was_done(shared: Fleet) -> None:
    shared.submit(shared.job("measured"))
    shared.check_each_has_one_result(["measured"])
    with urllib.request.urlopen(f"http://127.0.0.1:{shared.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    assert 'upscaled_queue_waiting{method="fake"} 0.0' in text
    assert 'upscaled_queue_machines{method="fake"} 1.0' in text
    assert 'upscaled_queue_deliveries_total{reason="first"}' in text
    assert 'upscaled_queue_results_total{outcome="completed"}' in text
    assert "upscaled_queue_fenced_total" in text


def test_a_job_that_is_given_twice_runs_once(shared: Fleet) -> None:
    job = shared.job("twice")
    shared.submit(job, job)
    shared.check_each_has_one_result(["twice"])
    shared.submit(job)
    shared.submit(shared.job("after-twice"))
    shared.check_each_has_one_result(["twice", "after-twice"])
    assert shared.starts_of("twice") == 1


def test_a_queue_tells_how_deep_it_is_and_the_higher_priority_starts_first(shared: Fleet) -> None:
    holds = [shared.job(f"hold-{number}", steps=2, step_s=ENDLESS_S) for number in (1, 2)]
    shared.submit(*holds)
    for job in holds:
        shared.wait_running(job["job_id"])
    waiting = [
        {**shared.job(f"priority-{priority}"), "priority": priority} for priority in (-1, 0, 3)
    ]
    shared.submit(*waiting)
    depth = json.loads(shared.command("depth", "--methods", "fake").stdout)["fake"]
    assert (depth["waiting"], depth["running"], depth["machines"]) == (3, 2, 1)
    assert 0 <= depth["oldest_s"] < 60
    # One slot is enough to see an order.
    assert shared.records.cancel("hold-1")
    for job in waiting:
        shared.end_of(job["job_id"])
    order = [event["job_id"] for event in shared.ends() if "priority-" in event["job_id"]]
    assert order == ["priority-3", "priority-0", "priority--1"]
    assert shared.records.cancel("hold-2")
    assert [shared.end_of(f"hold-{number}")["code"] for number in (1, 2)] == ["cancelled"] * 2


def test_a_waiting_job_is_cancelled_without_a_start(shared: Fleet) -> None:
    holds = [shared.job(f"block-{number}", steps=2, step_s=ENDLESS_S) for number in (1, 2)]
    shared.submit(*holds)
    for job in holds:
        shared.wait_running(job["job_id"])
    shared.submit(shared.job("cancelled"))
    assert shared.command("cancel", "cancelled").returncode == 0
    for job in holds:
        shared.records.cancel(job["job_id"])
    assert shared.end_of("cancelled")["code"] == "cancelled"
    assert shared.starts_of("cancelled") == 0
    assert not (shared.outputs / "cancelled").exists()


def test_a_cancel_of_an_unknown_job_says_so_and_holds_for_a_job_that_comes(
    shared: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cancel", "unknown", "--queue", shared.url]) == 0
    assert "no job unknown is known here" in capsys.readouterr().err
    assert shared.records.status_of("unknown", 60)["state"] == "unknown"
    shared.submit(shared.job("unknown"))
    assert shared.end_of("unknown")["code"] == "cancelled"
    assert shared.starts_of("unknown") == 0


def test_progress_is_told_while_a_job_runs(shared: Fleet) -> None:
    shared.submit(shared.job("slow", steps=6000, step_s=0.1))
    seen: list[float] = []

    def look() -> bool:
        progress = shared.records.status_of("slow", 60).get("progress")
        if progress is not None and progress["progress"] not in seen:
            seen.append(progress["progress"])
        return len(seen) == 3

    wait_until(look, "three values of progress")
    assert seen == sorted(seen)
    assert shared.records.cancel("slow")
    assert shared.end_of("slow")["code"] == "cancelled"


def test_a_job_of_three_leases_starts_once_although_redis_is_killed_meanwhile(
    shared: Fleet,
) -> None:
    shared.submit(shared.job("long", steps=9, step_s=LEASE_S / 3))
    shared.wait_running("long")
    shared.redis.kill()
    shared.redis.start()
    shared.check_each_has_one_result(["long"])
    assert shared.starts_of("long") == 1
    shared.submit(shared.job("after-the-blip"))
    shared.check_each_has_one_result(["after-the-blip"])


def test_a_job_that_failed_is_a_dead_letter_until_it_is_requeued(shared: Fleet) -> None:
    shared.submit(shared.job("dead", error_code="input_not_found", only_on_attempt=1))
    assert shared.end_of("dead")["code"] == "input_not_found"
    dead = [json.loads(line) for line in shared.command("dead").stdout.splitlines()]
    assert "dead" in [event["job_id"] for event in dead]
    assert shared.command("requeue", "dead").returncode == 0
    wait_until(lambda: shared.starts_of("dead") == 1, "the start of the requeued job")
    assert shared.end_of("dead")["code"] == "input_not_found"
    assert shared.command("requeue", "smoke-0").returncode == 1


def test_what_a_stranger_gives_is_refused(shared: Fleet, tmp_path: Path) -> None:
    outside = shared.job("outside")
    outside["config"]["output_path"] = str(tmp_path / "outside")
    weights = shared.job("weights", model="/tmp/evil.pth")
    base64 = shared.job("base64", output_base64=True)
    shared.submit(outside, weights)
    assert shared.end_of("outside")["code"] == "path_not_allowed"
    assert shared.end_of("weights")["code"] == "path_not_allowed"
    done = shared.command("submit", jobs=[base64])
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, "invalid_job")


@pytest.mark.parametrize("fleet", ["bullmq"], indirect=True)
def test_an_idle_machine_stays_for_a_job_that_is_tried_again_soon(fleet: Fleet) -> None:
    fleet.submit({"job_id": "tried", "method": "fake", "config": {"error_code": "upstream_quota"}})
    machine = fleet.start_machine("--idle-exit-s", "0.2", "--max-deliveries", "2")
    assert fleet.end_of("tried")["code"] == "upstream_quota"
    assert machine.wait_exit() == 0


def test_a_job_that_sigterm_interrupts_goes_back_uncharged_and_an_idle_machine_leaves(
    fleet: Fleet,
) -> None:
    machine = fleet.start_machine("--grace-s", "0.2").wait_ready()
    fleet.submit(fleet.job("interrupted", steps=2, step_s=ENDLESS_S))
    fleet.wait_running("interrupted")
    machine.process.send_signal(signal.SIGTERM)
    assert machine.wait_exit() == 0
    assert fleet.starts_of("interrupted") == 0
    assert fleet.records.end_of("interrupted") is None
    # The lease is a minute: nothing but the machine has put it back.
    depth = json.loads(fleet.command("depth", "--methods", "fake").stdout)["fake"]
    assert (depth["running"], depth["machines"]) == (0, 0)
    idle = fleet.start_machine("--idle-exit-s", "1")
    fleet.wait_running("interrupted")
    assert fleet.starts_of("interrupted") == 1
    fleet.submit(fleet.job("last"))
    assert fleet.records.cancel("interrupted")
    assert idle.wait_exit() == 0
    assert fleet.end_of("interrupted")["code"] == "cancelled"
    fleet.check_each_has_one_result(["last"])


@pytest.mark.parametrize("command", ["work", "submit"])
def test_a_redis_that_evicts_is_refused_by_name(command: str, tmp_path: Path) -> None:
    with running_fleet("redis", tmp_path, "--maxmemory-policy", "allkeys-lru") as fleet:
        if command == "work":
            machine = fleet.start_machine()
            status, said = machine.wait_exit(), "".join(machine.log)
        else:
            done = fleet.command("submit", jobs=[fleet.job("never")])
            status, said = done.returncode, done.stderr
    assert status == 2
    assert "noeviction" in said
