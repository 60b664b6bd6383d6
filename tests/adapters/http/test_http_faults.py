"""Faults below and beside `upscaled serve` cost no client its job."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from journals import running_in
from serve_process import ServeProcess, picture, serve_process
from upscaled_supervisor.journal import Journal
from waiting import wait_until
from webhook_receiver import SECRET, Receiver, receiving

# Long enough to be running when something is killed, and done soon after that.
STEPS: dict[str, Any] = {"steps": 40, "step_s": 0.02, "output_text": "pixels"}
# It reports its first step, and then nothing more.
HANG: dict[str, Any] = {"steps": 2, "at_step": 1, "hang": True}
# It does so until its worker is killed.
HELD: dict[str, Any] = {**HANG, "only_on_attempt": 1, "output_text": "pixels"}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[ServeProcess]:
    settings = {
        "UPSCALED_WORKERS_METHODS": "fake",
        "UPSCALED_WEBHOOKS_SECRET": SECRET,
        "UPSCALED_WEBHOOKS_ALLOW_HOSTS": receiver.host,
    }
    with serve_process(tmp_path_factory.mktemp("data"), **settings) as running:
        yield running


@pytest.fixture
def serve(shared: ServeProcess) -> ServeProcess:
    """A ready server, on the folder of the earlier tests."""
    if shared.process.poll() is not None:
        shared.start()
    shared.wait_ready()
    return shared


# A form that ends in the middle of its picture.
HALF_UPLOAD = (
    b"POST /api/upscale/fake HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    b'Content-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    + picture()
    + b"x" * 100_000
)


def open_jobs(serve: ServeProcess, running: dict[str, Any] = STEPS) -> list[str]:
    """The ids of an ended, a running and two waiting jobs."""
    label = uuid.uuid4().hex
    ended = serve.submit(output_text="pixels", label=label)
    serve.ended(ended["job_id"])
    jobs = [ended, *(serve.submit(**one, label=label) for one in (running, STEPS, STEPS))]
    serve.running(jobs[1]["job_id"])
    return [job["job_id"] for job in jobs]


def assert_all_done_once(serve: ServeProcess, job_ids: list[str]) -> None:
    for job_id in job_ids:
        assert serve.job(job_id)["job_id"] == job_id
    for job_id in job_ids:
        job = serve.ended(job_id)
        assert job["status"] == "completed", job
        assert serve.client.get(job["result_url"]).content == b"pixels"
    label = job["label"]
    listed = serve.client.get("/api/jobs", params={"label": label}).json()["jobs"]
    assert sorted(job["job_id"] for job in listed) == sorted(job_ids)
    assert uploads_of(serve) == set()


def uploads_of(serve: ServeProcess) -> set[str]:
    return {name for name in serve.files() if name.startswith("uploads")}


def test_a_killed_worker_costs_a_client_nothing(serve: ServeProcess) -> None:
    job_ids = open_jobs(serve, HELD)
    serve.wait_for(job_ids[1], lambda job: job["progress"] > 0, "the first step")
    os.kill(serve.workers()[0], signal.SIGKILL)
    assert_all_done_once(serve, job_ids)
    assert serve.job(job_ids[1])["attempt"] == 2


def test_a_killed_daemon_costs_a_client_nothing(serve: ServeProcess) -> None:
    job_ids = open_jobs(serve)
    label, restarts = serve.job(job_ids[0])["label"], daemon_restarts(serve)
    with serve.client.stream("GET", f"/api/jobs/{job_ids[1]}/events") as stream:
        lines = stream.iter_lines()
        told = [next(lines)]
        serve.daemon.kill()
        # Submitted while no daemon runs, or just when one starts.
        job_ids.append(serve.submit(output_text="pixels", label=label)["job_id"])
        told += lines
    assert "event: completed" in told
    assert_all_done_once(serve, job_ids)
    assert daemon_restarts(serve) == restarts + 1


def test_after_a_killed_server_every_id_answers_and_each_job_is_done_once(
    serve: ServeProcess, receiver: Receiver
) -> None:
    """Also, a half upload is removed, and a webhook that was not answered is sent again."""
    receiver.answers.clear()
    told = serve.submit(webhook=receiver.url())
    event = receiver.next()
    job_ids = open_jobs(serve)
    uploads = uploads_of(serve)
    with serve.connect() as broken:
        broken.sendall(HALF_UPLOAD)
        wait_until(lambda: uploads_of(serve) > uploads, "the upload's file")
        serve.kill()
    (half,) = {name for name in uploads_of(serve) if "incoming" in name}
    receiver.answers.set()
    serve.start()
    assert half not in uploads_of(serve)
    assert receiver.next() == event
    assert event["data"]["job_id"] == told["job_id"]
    assert_all_done_once(serve, job_ids)


def test_after_a_killed_server_and_daemon_every_id_answers_and_each_job_is_done_once(
    serve: ServeProcess,
) -> None:
    job_ids = open_jobs(serve)
    daemon = serve.daemon
    daemon.suspend()  # it cannot react to the server's end
    serve.process.kill()
    daemon.kill()
    serve.kill()
    serve.start()
    assert_all_done_once(serve, job_ids)


def test_a_daemon_whose_server_was_killed_charges_no_job_for_it(serve: ServeProcess) -> None:
    job_id = serve.submit(**HANG)["job_id"]
    serve.running(job_id)
    wait_until(lambda: running_in(serve.data_dir / "journal.db"), "the record of the run")
    daemon = serve.daemon
    serve.kill()
    psutil.wait_procs([daemon], timeout=60)
    with contextlib.closing(Journal(serve.data_dir / "journal.db")) as journal:
        assert [(job.job_id, job.daemon_kills) for job in journal.pending()] == [(job_id, 0)]
    serve.start()
    serve.client.post(f"/api/jobs/{job_id}/cancel")
    assert serve.ended(job_id)["status"] == "cancelled"


def test_a_job_that_takes_the_daemon_down_each_time_ends_as_poisoned(serve: ServeProcess) -> None:
    job_id = serve.submit(**HANG)["job_id"]
    for _ in range(3):
        serve.running(job_id)
        wait_until(lambda: running_in(serve.data_dir / "journal.db"), "the record of the run")
        restarts = daemon_restarts(serve)
        serve.daemon.kill()
        wait_until(lambda: daemon_restarts(serve) > restarts, "the end of the daemon")  # noqa: B023
        serve.wait_ready()
    job = serve.ended(job_id)
    assert (job["status"], job["code"]) == ("failed", "poisoned")
    assert "daemon was killed 3 times" in job["error"]


def test_a_client_that_leaves_costs_its_job_nothing(serve: ServeProcess) -> None:
    body = b'{"steps":20,"step_s":0.02,"output_text":"pixels","label":"left"}'
    head = b"POST /api/upscale/fake?wait=60 HTTP/1.1\r\nHost: localhost\r\n"
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    found: list[dict[str, Any]] = []

    def look() -> bool:
        found[:] = serve.client.get("/api/jobs", params={"label": "left"}).json()["jobs"]
        return bool(found)

    with serve.connect() as client:
        client.sendall(head + body)
        wait_until(look, "the job")
    assert serve.ended(found[0]["job_id"])["status"] == "completed"


def test_a_server_that_gets_sigterm_ends_jobs_and_streams_first(serve: ServeProcess) -> None:
    job = serve.submit(**STEPS, label="drained")
    serve.running(job["job_id"])
    with serve.client.stream("GET", job["events_url"]) as stream:
        lines = stream.iter_lines()
        told = [next(lines)]
        serve.process.send_signal(signal.SIGTERM)
        told += lines
    assert "event: completed" in told
    assert "id: end" in told
    assert serve.wait_exit() == 0
    serve.start()
    assert_all_done_once(serve, [job["job_id"]])


def test_while_a_server_stops_it_takes_no_job_and_says_so(serve: ServeProcess) -> None:
    job = serve.submit(**HANG)
    serve.running(job["job_id"])
    serve.process.send_signal(signal.SIGTERM)
    wait_until(lambda: serve.client.get("/api/health").status_code == 503, "the drain")
    assert serve.client.get("/api/health").json()["status"] == "draining"
    assert serve.client.get("/api/health/ready").status_code == 503
    answer = serve.client.post("/api/upscale/fake", json={})
    assert (answer.status_code, answer.json()["code"]) == (503, "shutting_down")
    assert "retry-after" in answer.headers
    serve.client.post(job["cancel_url"])
    assert serve.wait_exit() == 0


def test_a_full_disk_refuses_uploads_and_spoils_nothing(serve: ServeProcess) -> None:
    """The kernel's file size limit stands for the disk: the same writes fail."""
    done = serve.submit(output_text="pixels")
    serve.ended(done["job_id"])
    with file_size_limit(serve.process.pid, 4096):
        answer = serve.client.post(
            "/api/upscale/fake", files={"image": ("a.png", picture(8, 8) + b"x" * 200_000)}
        )
        assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
        assert answer.json()["retryable"] is True
        wait_until(lambda: not uploads_of(serve), "the end of the upload's file")
        answers = [serve.client.post("/api/upscale/fake", json={}) for _ in range(20)]
        assert {one.status_code for one in answers} <= {202, 507}
        assert serve.client.get("/api/health/live").status_code == 200
    accepted = [one.json()["job_id"] for one in answers if one.status_code == 202]
    job = serve.submit(output_text="pixels")
    for job_id in (*accepted, job["job_id"]):
        assert serve.ended(job_id)["status"] == "completed"
    serve.kill()
    serve.start()
    for job_id in (done["job_id"], job["job_id"]):
        assert serve.client.get(f"/api/results/{job_id}").content == b"pixels"


def test_a_folder_that_goes_away_in_use_refuses_uploads(serve: ServeProcess) -> None:
    """As one that became read-only does, which root could write all the same."""
    incoming = serve.data_dir / "uploads" / "incoming"
    incoming.rename(incoming.with_name("away"))
    answer = serve.client.post("/api/upscale/fake", files={"image": picture()})
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
    assert str(serve.data_dir) not in answer.text
    incoming.with_name("away").rename(incoming)
    assert serve.client.post("/api/upscale/fake", json={}).status_code == 202


@contextlib.contextmanager
def file_size_limit(pid: int, size: int) -> Iterator[None]:
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def daemon_restarts(serve: ServeProcess) -> int:
    return int(serve.client.get("/api/health").json()["daemon_restarts"])
