"""A job's record, as the daemon's messages change it."""

from __future__ import annotations

from upscaled_http.messages import Job
from upscaled_http.records import Record
from upscaled_protocol.messages import Result

# The server's alone: a client fetches the picture by its address.
HIDDEN = {"type", "output_path", "output_base64", "output_url", "output_bytes"}


def test_a_job_has_every_field_of_the_daemons_result_but_the_outputs_place() -> None:
    assert Result.model_fields.keys() - Job.model_fields.keys() == HIDDEN


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
