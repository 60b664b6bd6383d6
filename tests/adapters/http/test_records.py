"""A job's record, as the daemon's messages change it."""

from __future__ import annotations

from pathlib import Path

from upscaled_http.messages import Job
from upscaled_http.records import Pixels, Record
from upscaled_http.registry import Registry
from upscaled_protocol.messages import Result

# The server's alone: a client fetches the picture by its address.
HIDDEN = {"type", "output_path", "output_base64", "output_url", "output_bytes"}


def test_a_job_has_every_field_of_the_daemons_result_but_the_outputs_place() -> None:
    assert Result.model_fields.keys() - Job.model_fields.keys() == HIDDEN


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "sidecar.db")
    written = Record(
        job_id="1",
        owner="phone",
        method="esrgan",
        created_at=1.0,
        line=b"{}\n",
        label="a label",
        name="a.png",
        priority=7,
        retention="delete_after_download",
        webhook="https://example.org/",
        input_size=Pixels(3, 4),
        planned_size=Pixels(6, 8),
        started_at=2.0,
        progress=50.0,
        attempt=2,
    )
    registry.add(written)
    found = registry.find("1")
    registry.close()
    assert found is not None
    assert found.job() == written.job()
    assert (found.owner, found.line, found.retention) == ("phone", b"{}\n", "delete_after_download")
    assert (found.priority, found.webhook) == (7, "https://example.org/")


def test_a_completed_job_shows_what_the_daemon_said_of_it() -> None:
    record = Record(job_id="1", owner="", method="esrgan", created_at=0.0, line=b"{}\n")
    record.file_name = "1.jpg"
    record.complete(
        {
            "type": "result",
            "job_id": "another",
            "status": "done",
            "output_path": "/srv/data/results/1.jpg",
            "model": "compact-x4",
            "attempt": 2,
            "a_later_field": 1,
        },
        now=1.0,
    )
    job = record.job()
    assert (job.job_id, job.status, job.model, job.attempt) == ("1", "completed", "compact-x4", 2)
    assert job.media_type == "image/jpeg"
    assert b"/srv" not in record.body()
