"""`upscaled queue run`: any host of the protocol drives a fleet as if it were one daemon."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from redis import ResponseError

from queue_fleet import Fleet, needs_redis, running_fleet
from upscaled import JobCancelledError, Upscaler
from upscaled.errors import InvalidJobError
from upscaled_queue.outages import reason_of
from waiting import TIMEOUT_S, wait_until

pytestmark = needs_redis

LEASE_S = 1.5
ENDLESS_S = 600.0


@pytest.fixture(scope="module", params=["redis", "bullmq"], ids=["celery", "bullmq"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """One machine with two slots, for all tests of this file."""
    with running_fleet(request.param, tmp_path_factory.mktemp("queue")) as fleet:
        options = ("--lease-s", str(LEASE_S), "--slots", "2")
        fleet.start_machine(*options).wait_ready()
        yield fleet


def command_of(fleet: Fleet) -> list[str]:
    command = [sys.executable, "-m", "upscaled_cli", "queue", "run", "--methods", "fake"]
    return [*command, "--queue", fleet.url, "--lease-s", str(LEASE_S)]


@contextmanager
def front(fleet: Fleet) -> Iterator[Upscaler]:
    with Upscaler(command=command_of(fleet)) as upscaler:
        yield upscaler


def test_the_python_client_drives_a_fleet_as_it_drives_a_daemon(shared: Fleet) -> None:
    seen: list[float] = []
    with front(shared) as upscaler:
        assert upscaler.start().methods == ["fake"]
        result = upscaler.submit_job(shared.job("driven")).result(TIMEOUT_S)
        assert result.output_path == str(shared.outputs / "driven")
        slow = shared.job("slow", steps=6000, step_s=0.1)
        call = upscaler.submit_job(slow, on_progress=lambda news: seen.append(news.progress))
        wait_until(lambda: len(seen) >= 2, "two values of progress")
        assert upscaler.health().status == "ok"
        call.cancel()
        with pytest.raises(JobCancelledError):
            call.result(TIMEOUT_S)
    shared.check_each_has_one_result(["driven"])
    assert seen == sorted(seen)


def test_a_job_that_has_ended_gives_its_end_again(shared: Fleet) -> None:
    job = shared.job("again")
    with front(shared) as upscaler:
        first = upscaler.submit_job(job).result(TIMEOUT_S)
        second = upscaler.submit_job(job).result(TIMEOUT_S)
    assert first.message == second.message
    assert shared.starts_of("again") == 1


def test_a_running_job_and_a_waiting_one_can_be_cancelled(shared: Fleet) -> None:
    with front(shared) as upscaler:
        held = [
            upscaler.submit_job(shared.job(f"held-{number}", steps=2, step_s=ENDLESS_S))
            for number in range(2)
        ]
        for number in range(2):
            shared.wait_running(f"held-{number}")
        waiting = upscaler.submit_job(shared.job("waiting"))
        for call in (waiting, *held):
            call.cancel()
        for call in (waiting, *held):
            with pytest.raises(JobCancelledError):
                call.result(TIMEOUT_S)
    assert not (shared.outputs / "waiting").exists()


def test_what_the_fleet_does_not_serve_is_refused(shared: Fleet) -> None:
    config = {"image_path": "/a.png", "output_path": "/b.png"}
    with front(shared) as upscaler, pytest.raises(InvalidJobError, match="not served here"):
        upscaler.submit_job({"job_id": "foreign", "method": "esrgan", "config": config}).result(
            TIMEOUT_S
        )


def test_jobs_outlive_the_process_that_gave_them(shared: Fleet) -> None:
    job = shared.job("outlives", steps=20, step_s=0.1)
    process = subprocess.Popen(
        command_of(shared), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    shared.wait_running("outlives")
    process.kill()
    process.communicate()
    with front(shared) as upscaler:
        assert (
            upscaler.submit_job(job).result(TIMEOUT_S).output_path == job["config"]["output_path"]
        )
    shared.check_each_has_one_result(["outlives"])
    assert shared.starts_of("outlives") == 1


def test_a_pipe_of_jobs_ends_with_their_ends(shared: Fleet) -> None:
    jobs: list[dict[str, Any]] = [shared.job(f"piped-{number}") for number in range(5)]
    jobs.append({"job_id": "bad", "method": "fake", "config": {"error_code": "input_unreadable"}})
    done = subprocess.run(
        command_of(shared),
        input="".join(json.dumps(job) + "\n" for job in [*jobs, jobs[0]]),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    ends = [one for one in messages if one["type"] in ("result", "error")]
    assert done.returncode == 1
    assert sorted(one["job_id"] or one["refused_job_id"] for one in ends) == sorted(
        [*(job["job_id"] for job in jobs), "piped-0"]
    )
    assert [one["code"] for one in ends if one["job_id"] == "bad"] == ["input_unreadable"]
    assert messages[-1]["message"] == "stopped"


def test_redis_may_be_killed_under_it(fleet: Fleet) -> None:
    fleet.start_machine("--lease-s", str(LEASE_S)).wait_ready()
    with front(fleet) as upscaler:
        call = upscaler.submit_job(fleet.job("survives", steps=10, step_s=0.1))
        fleet.wait_running("survives")
        fleet.redis.kill()
        later = upscaler.submit_job(fleet.job("later"))
        fleet.redis.start()
        for one in (call, later):
            one.result(TIMEOUT_S)
    fleet.check_each_has_one_result(["survives", "later"])


@pytest.mark.parametrize("fleet", ["redis"], indirect=True, ids=["celery"])
def test_an_emptied_redis_gets_the_open_jobs_again(fleet: Fleet) -> None:
    ids = [f"lost-{number}" for number in range(3)]
    with front(fleet) as upscaler:
        calls = [upscaler.submit_job(fleet.job(job_id)) for job_id in ids]
        wait_until(lambda: not fleet.records.not_given(ids), "the jobs in the queue")
        fleet.records.redis.flushall()
        fleet.start_machine("--lease-s", str(LEASE_S))
        for call in calls:
            call.result(TIMEOUT_S)
    fleet.check_each_has_one_result(ids)


def test_the_reason_of_an_outage_names_no_part_of_a_job(shared: Fleet) -> None:
    redis = shared.records.redis
    redis.config_set("min-replicas-to-write", 1)
    try:
        with redis.pipeline() as pipeline:
            pipeline.hset("upscaled:job:a", "config", "https://example.org/?token=secret")
            with pytest.raises(ResponseError) as caught:
                pipeline.execute()
    finally:
        redis.config_set("min-replicas-to-write", 0)
    assert "secret" in str(caught.value)
    assert reason_of(caught.value) == "NOREPLICAS Not enough good replicas to write."


def test_a_redis_that_takes_no_writes_for_now_delays_jobs_and_ends_none(
    shared: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "upscaled")
    redis = shared.records.redis
    with front(shared) as upscaler:
        running = upscaler.submit_job(shared.job("held", steps=2, step_s=0.5))
        shared.wait_running("held")
        # Every write is refused, as with a full disk.
        redis.config_set("min-replicas-to-write", 1)
        try:
            waiting = upscaler.submit_job(shared.job("patient"))
            wait_until(lambda: "queue_away" in caplog.text, "the refusal of the job")
            report = upscaler.health()
            assert report.status == "degraded"
            assert "the queue cannot be used now: NOREPLICAS" in (report.detail or "")
            cancelled = upscaler.submit_job(shared.job("unwanted"))
            cancelled.cancel()
        finally:
            redis.config_set("min-replicas-to-write", 0)
        for call in (running, waiting):
            call.result(TIMEOUT_S)
        with pytest.raises(JobCancelledError):
            cancelled.result(TIMEOUT_S)
    shared.check_each_has_one_result(["held", "patient"])


def test_without_a_machine_jobs_wait_and_health_says_so(fleet: Fleet) -> None:
    with front(fleet) as upscaler:
        call = upscaler.submit_job(fleet.job("patient"))
        wait_until(lambda: upscaler.health().queue_size == 1, "the job's place in the queue")
        report = upscaler.health()
        assert (report.status, report.in_flight) == ("degraded", 1)
        fleet.start_machine("--lease-s", str(LEASE_S))
        call.result(TIMEOUT_S)


def test_it_exits_if_its_host_is_gone_and_the_job_goes_on(shared: Fleet) -> None:
    job = shared.job("left", steps=20, step_s=0.1)
    process = subprocess.Popen(
        command_of(shared), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
        shared.wait_running("left")
    assert process.wait(TIMEOUT_S) == 4
    shared.check_each_has_one_result(["left"])
