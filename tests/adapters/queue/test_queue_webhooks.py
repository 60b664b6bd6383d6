"""Webhooks of a queue's jobs: real machines, a real Redis, and a receiver of HTTP."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from free_ports import free_port
from queue_fleet import Fleet, needs_redis, running_fleet
from upscaled import JobCancelledError, Upscaler
from upscaled_queue.webhooks import message_of
from waiting import TIMEOUT_S, wait_until
from webhook_receiver import SECRET, Receiver, receiving

pytestmark = needs_redis

LEASE_S = 1.5
ENDLESS_S = 600.0


class Hooked(NamedTuple):
    fleet: Fleet
    receiver: Receiver

    def job(self, job_id: str, path: str = "/hook", **config: Any) -> dict[str, Any]:
        """A job of the fake engine that tells its end to the receiver."""
        return {**self.fleet.job(job_id, **config), "webhook_url": self.receiver.url(path)}

    def status_of(self, job_id: str) -> dict[str, Any]:
        """What `queue status` prints."""
        return dict(json.loads(self.fleet.command("status", job_id).stdout))

    def wait_delivered(self, job_id: str) -> int:
        """Wait until the record says so: the attempts that it took."""
        status = self.fleet.records.status_of
        wait_until(
            lambda: status(job_id, 60).get("webhook", {}).get("state") == "delivered",
            f"the delivery of {job_id}",
        )
        return int(status(job_id, 60)["webhook"]["attempts"])


def hooked(scheme: str, folder: Path, receiver: Receiver) -> Iterator[Hooked]:
    with running_fleet(scheme, folder) as fleet:
        fleet.env = {
            "UPSCALED_WEBHOOKS_SECRET": SECRET,
            "UPSCALED_WEBHOOKS_ALLOW_HOSTS": receiver.host,
        }
        yield Hooked(fleet, receiver)


@pytest.fixture(scope="module", params=["redis", "bullmq"], ids=["celery", "bullmq"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hooked]:
    """One machine, for all tests that leave it as it was."""
    with receiving() as receiver:
        for one in hooked(request.param, tmp_path_factory.mktemp("queue"), receiver):
            one.fleet.metrics_port = free_port()
            metrics = ("--metrics-address", f"127.0.0.1:{one.fleet.metrics_port}")
            one.fleet.start_machine("--lease-s", str(LEASE_S), *metrics).wait_ready()
            yield one


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Hooked]:
    """Without machines."""
    with receiving() as receiver:
        yield from hooked("redis", tmp_path, receiver)


def test_each_end_of_a_job_is_sent_once_under_its_id(shared: Hooked) -> None:
    fleet, receiver = shared
    receiver.ids.clear()
    fleet.submit(shared.job("done"))
    event = receiver.next()
    end = fleet.end_of("done")
    assert event["type"] == "job.completed"
    assert event["timestamp"] == event["data"]["finished_at"]
    same = ("job_id", "status", "output_path", "processing_time", "timings", "warnings", "attempt")
    assert {name: event["data"][name] for name in same} == {name: end[name] for name in same}
    assert event["data"]["method"] == "fake"
    fleet.submit(shared.job("failed", error_code="input_unreadable"))
    event = receiver.next()
    assert (event["type"], event["data"]["status"]) == ("job.failed", "failed")
    assert event["data"]["code"] == "input_unreadable"
    fleet.submit(shared.job("stopped", steps=2, step_s=ENDLESS_S))
    fleet.wait_running("stopped")
    assert fleet.command("cancel", "stopped").returncode == 0
    event = receiver.next()
    assert (event["type"], event["data"]["code"]) == ("job.cancelled", "cancelled")
    fleet.submit(shared.job("refused", model="/models/own.pth"))
    assert receiver.next()["data"]["code"] == "path_not_allowed"
    assert receiver.ids == ["done", "failed", "stopped", "refused"]
    assert shared.wait_delivered("done") == 1
    assert receiver.events.empty()


def test_a_token_in_the_url_is_in_no_log_no_status_and_no_event(shared: Hooked) -> None:
    fleet, receiver = shared
    receiver.status = 410
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    fleet.submit({**shared.job("tokened", path="/hook?token=hush"), "traceparent": trace})
    body = receiver.next()
    machine = fleet.machines[0]
    wait_until(lambda: machine.has_logged("webhook"), "the log of the failure")
    receiver.status = 204
    status = shared.status_of("tokened")
    assert status["webhook"] == {"state": "given_up", "attempts": 1, "reason": "answers 410"}
    assert "hush" not in str(status) + str(body) + "".join(machine.log)
    assert any(trace in line for line in machine.log if '"event":"job_ended"' in line)
    assert any(f"{receiver.host}" in line for line in machine.log if '"event":"webhook"' in line)


def test_a_job_that_is_given_anew_has_a_message_of_its_own(shared: Hooked) -> None:
    fleet, receiver = shared
    receiver.ids.clear()
    fleet.submit(shared.job("dead", error_code="input_unreadable"))
    receiver.next()
    shared.wait_delivered("dead")
    assert fleet.command("requeue", "dead").returncode == 0
    assert receiver.next()["data"]["job_id"] == "dead"
    assert receiver.ids[0] == "dead"
    assert len(set(receiver.ids)) == 2


def test_a_webhook_to_another_host_is_refused_before_the_job_runs(shared: Hooked) -> None:
    fleet, receiver = shared
    with receiving() as other:
        url = other.url("/?token=hush")
        fleet.submit({**fleet.job("elsewhere"), "webhook_url": url})
        end = fleet.end_of("elsewhere")
        assert (end["code"], "hush" in end["error"]) == ("path_not_allowed", False)
        assert end["error"].startswith(f"webhook_url: {other.host} is not one of")
        assert "webhook" not in shared.status_of("elsewhere")
        assert other.events.empty()
    assert not (fleet.outputs / "elsewhere").exists()
    assert receiver.events.empty()


def test_metrics_count_the_attempts_and_what_waits(shared: Hooked) -> None:
    fleet, receiver = shared
    fleet.submit(shared.job("counted"))
    receiver.next()
    shared.wait_delivered("counted")
    with urlopen(f"http://127.0.0.1:{fleet.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (line,) = (one for one in lines if 'webhook_attempts_total{outcome="delivered"}' in one)
    assert float(line.split()[-1]) >= 1
    assert "upscaled_webhooks_pending 0.0" in lines


def test_a_machine_that_is_killed_before_its_receiver_answers_loses_no_webhook(
    alone: Hooked,
) -> None:
    fleet, receiver = alone
    first = fleet.start_machine("--lease-s", str(LEASE_S)).wait_ready()
    receiver.answers.clear()
    fleet.submit(alone.job("survives"))
    once = receiver.next()
    first.kill()
    second = fleet.start_machine("--lease-s", str(LEASE_S))
    receiver.answers.set()
    assert receiver.next() == once
    assert receiver.ids == ["survives", "survives"]
    assert alone.wait_delivered("survives") == 1
    assert fleet.starts_of("survives") == 1
    # A machine that leaves sends the end of its last job.
    second.wait_ready()
    fleet.submit(alone.job("last", steps=20, step_s=0.1))
    fleet.wait_progress("last")
    second.process.send_signal(signal.SIGTERM)
    assert second.wait_exit() == 0
    assert receiver.next()["data"]["job_id"] == "last"
    assert alone.status_of("last")["webhook"] == {"state": "delivered", "attempts": 1}


def test_without_machines_a_command_sends_what_they_left_and_each_end_at_once(
    alone: Hooked,
) -> None:
    fleet, receiver = alone

    def end(job_id: str) -> None:
        event = {"type": "result", "job_id": job_id, "status": "completed"}
        job = alone.job(job_id)
        webhook = message_of(job["webhook_url"], "fake", event)
        fleet.records.settle(job_id, "fake", event, job, webhook)

    end("left")
    command = [sys.executable, "-m", "upscaled_cli", "queue", "webhooks", "--queue", fleet.url]
    # All that waits is looked at every quarter of the lease: far too late for this test.
    sender = subprocess.Popen(
        [*command, "--lease-s", str(ENDLESS_S)], env=fleet.environment(), stderr=subprocess.PIPE
    )
    try:
        assert receiver.next()["data"]["job_id"] == "left"
        alone.wait_delivered("left")
        end("new")
        assert receiver.next()["data"]["job_id"] == "new"
        alone.wait_delivered("new")
        sender.terminate()
        assert sender.wait(TIMEOUT_S) == 0
    finally:
        sender.kill()
        sender.communicate()


def test_a_waiting_job_that_its_front_cancels_is_told(alone: Hooked) -> None:
    fleet, receiver = alone
    command = [sys.executable, "-m", "upscaled_cli", "queue", "run", "--methods", "fake"]
    command += ["--queue", fleet.url, "--lease-s", str(LEASE_S)]
    with Upscaler(command=command, env=fleet.environment()) as upscaler:
        call = upscaler.submit_job(alone.job("waiting"))
        wait_until(lambda: fleet.records.is_given("waiting"), "the job in the queue")
        call.cancel()
        with pytest.raises(JobCancelledError):
            call.result(TIMEOUT_S)
        assert receiver.next()["type"] == "job.cancelled"
