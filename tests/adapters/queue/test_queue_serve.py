"""`upscaled serve --queue`: the sidecar's API in front of a fleet."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

import nearest_engine
from queue_fleet import Fleet, Machine, needs_redis, running_fleet
from serve_process import TIMEOUT_S, ServeProcess, picture, serve_process
from waiting import wait_until
from webhook_receiver import SECRET, Receiver, receiving

pytestmark = needs_redis

LEASE_S = 1.5


class Front(NamedTuple):
    serve: ServeProcess
    fleet: Fleet
    receiver: Receiver

    def start_machine(self, monkeypatch: pytest.MonkeyPatch) -> Machine:
        """A machine that shares the server's data folder, and whose esrgan repeats pixels."""
        monkeypatch.setenv("PYTHONPATH", nearest_engine.environment()["PYTHONPATH"])
        return self.fleet.start_machine(
            "--lease-s", str(LEASE_S), "--methods", "esrgan,fake",
            "--allow-root", str(self.serve.data_dir),
        )  # fmt: skip


@pytest.fixture(params=["redis", "bullmq"], ids=["celery", "bullmq"])
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    with (
        receiving() as receiver,
        running_fleet(request.param, tmp_path) as fleet,
        serve_process(
            tmp_path / "data",
            UPSCALED_QUEUE_URL=fleet.url,
            UPSCALED_WEBHOOKS_SECRET=SECRET,
            UPSCALED_WEBHOOKS_ALLOW_HOSTS=receiver.host,
        ) as serve,
    ):
        yield Front(serve, fleet, receiver)


def test_a_picture_goes_through_the_queue_and_comes_back(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = front.serve
    form = {"upscale_factor": "2"}
    first = serve.accepted(
        serve.client.post("/api/upscale", data=form, files={"image": ("a.png", picture())})
    )
    # No machine is there yet: the job waits, and health says so.
    health = serve.client.get("/api/health").json()
    assert (health["status"], health["in_flight"]) == ("degraded", 1)
    assert "no machine" in health["detail"]
    depth = serve.client.get("/api/queue/depth").json()
    assert depth["esrgan"].pop("oldest_s") >= 0
    assert depth == {
        "esrgan": {"waiting": 1, "running": 0, "machines": 0},
        "fake": {"waiting": 0, "running": 0, "oldest_s": None, "machines": 0},
    }
    front.start_machine(monkeypatch)
    assert serve.ended(first["job_id"])["status"] == "completed"
    answer = serve.client.get(f"/api/results/{first['job_id']}")
    with Image.open(BytesIO(answer.content)) as image:
        assert image.size == (24, 16)
    assert front.fleet.end_of(first["job_id"])["type"] == "result"


def test_jobs_and_their_webhooks_outlive_the_server_and_no_command_line_has_its_password(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve = front.serve
    job = serve.submit(steps=20, step_s=0.1, webhook=front.receiver.url())
    assert front.fleet.url not in " ".join(serve.daemon.cmdline())
    front.start_machine(monkeypatch)
    front.fleet.wait_running(job["job_id"])
    daemon = serve.daemon
    serve.kill()
    assert daemon.wait(TIMEOUT_S) is None or not daemon.is_running()
    serve.start()
    ended = serve.ended(job["job_id"])
    assert ended["status"] == "completed"
    assert front.fleet.starts_of(job["job_id"]) == 1
    # The server sends it: the machines do not know of it.
    assert front.receiver.next()["data"] == ended
    assert front.receiver.ids == [job["job_id"]]


def test_a_cancelled_job_ends_also_if_no_machine_is_there(front: Front) -> None:
    serve = front.serve
    job = serve.submit()
    wait_until(lambda: front.fleet.records.is_given(job["job_id"]), "the job in the queue")
    assert serve.client.post(f"/api/jobs/{job['job_id']}/cancel").status_code < 300
    assert serve.ended(job["job_id"])["status"] == "cancelled"
