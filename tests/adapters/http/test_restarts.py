"""What becomes of jobs if the daemon or the server goes away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from running_serve import RunningServe, running_serve
from upscaled_http.config import StorageSettings
from upscaled_http.records import Record
from upscaled_http.registry import Registry
from upscaled_http.storage import Storage, StorageError


def wait_until_running(serve: RunningServe, job_id: str) -> None:
    """A short job may have ended."""
    with serve.client.stream("GET", f"/api/jobs/{job_id}/events") as events:
        for line in events.iter_lines():
            if line in ("event: progress", "event: completed"):
                return
    raise AssertionError("the job never ran")


def fake_record(job_id: str, **config: object) -> Record:
    job = {"job_id": job_id, "method": "fake", "config": config}
    return Record(
        job_id=job_id,
        owner="",
        method="fake",
        created_at=time.time(),
        line=orjson.dumps(job) + b"\n",
    )


def daemon_of(serve: RunningServe) -> int:
    pid = serve.service.daemon.pid
    assert pid is not None
    return pid


class Left(NamedTuple):
    """What the first server of a folder has left, and what was put there after it."""

    serve: RunningServe
    data_dir: Path
    job: dict[str, Any]
    running: dict[str, Any]


NO_JOB = "00000000-0000-4000-8000-000000000003"
FOREIGN = Path("results/holiday.png")
ORPHANS = [
    Path("uploads", NO_JOB),
    Path("uploads/incoming/0123"),
    Path(f"results/{NO_JOB}.png"),
    Path(f"results/{NO_JOB}.preview-1600.webp"),
]
UNSENT, UNSENT_CANCELLED = (f"00000000-0000-4000-8000-{n:012}" for n in (1, 2))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Left]:
    """A second server in the folder of one that was killed at the worst moments."""
    data_dir = tmp_path_factory.mktemp("data")
    with running_serve(data_dir, server={"grace_s": 0.1}) as serve:
        job = serve.ended(serve.submit(output_text="pixels")["job_id"])
        running = serve.submit(steps=3, at_step=2, hang=True)
        wait_until_running(serve, running["job_id"])
    registry = Registry(data_dir / "sidecar.db")
    # Between the daemon's record of an end and the server's own.
    registry.remove(job["job_id"])
    registry.add(fake_record(job["job_id"], hang=True))
    # Between the row and the line to the daemon.
    registry.add(fake_record(UNSENT))
    cancelled = fake_record(UNSENT_CANCELLED, hang=True)
    cancelled.is_cancelled = True
    registry.add(cancelled)
    registry.close()
    for path in (*ORPHANS, FOREIGN):
        (data_dir / path).touch()
    with running_serve(data_dir) as serve:
        # It continues, and no test may have to wait for it.
        wait_until_running(serve, running["job_id"])
        serve.client.post(running["cancel_url"])
        yield Left(serve, data_dir, job, running)


def test_a_job_that_runs_while_the_server_stops_continues_on_the_next_one(left: Left) -> None:
    assert left.serve.ended(left.running["job_id"])["status"] == "cancelled"


def test_an_end_that_only_the_journal_has_is_taken_over(left: Left) -> None:
    found = left.serve.ended(left.job["job_id"])
    assert (found["status"], found["file_size_bytes"]) == ("completed", 6)
    assert left.serve.client.get(found["result_url"]).content == b"pixels"


def test_a_job_that_never_reached_the_daemon_is_sent(left: Left) -> None:
    assert left.serve.ended(UNSENT)["status"] == "completed"


def test_a_job_that_was_cancelled_before_it_reached_the_daemon_ends_so(left: Left) -> None:
    assert left.serve.ended(UNSENT_CANCELLED)["status"] == "cancelled"


def test_files_of_no_job_are_removed_at_the_start_and_others_stay(left: Left) -> None:
    assert [path for path in ORPHANS if (left.data_dir / path).exists()] == []
    assert (left.data_dir / FOREIGN).exists()


def test_a_second_server_on_the_same_folder_is_refused(left: Left) -> None:
    second = Storage(StorageSettings(data_dir=left.data_dir))
    with pytest.raises(StorageError, match="another server uses"):
        second.open()


def test_a_killed_daemon_is_started_again_and_its_job_ends(left: Left) -> None:
    serve = left.serve
    job = serve.submit(steps=20, step_s=0.02, output_text="x")
    wait_until_running(serve, job["job_id"])
    restarts = serve.client.get("/api/health").json()["daemon_restarts"]
    os.kill(daemon_of(serve), signal.SIGKILL)
    later = serve.submit()
    assert serve.ended(job["job_id"])["status"] == "completed"
    assert serve.ended(later["job_id"])["status"] == "completed"
    assert serve.client.get("/api/health").json()["daemon_restarts"] == restarts + 1


def test_a_daemon_that_gets_sigterm_loses_no_job(left: Left) -> None:
    serve = left.serve
    first = serve.submit(steps=5, step_s=0.01)
    os.kill(daemon_of(serve), signal.SIGTERM)
    later = serve.submit()
    for job in (first, later):
        assert serve.ended(job["job_id"])["status"] == "completed"
