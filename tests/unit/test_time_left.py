"""What a worker says of the time left, on a clock of the test's own."""

from __future__ import annotations

from upscaled_protocol.configs import FakeConfig
from upscaled_protocol.messages import FakeJob, Progress
from upscaled_worker.job import RunningJob
from upscaled_worker.turns import Turns


def test_loading_and_waiting_do_not_count_and_encoding_does() -> None:
    now = 100.0
    sent: list[Progress] = []
    message = FakeJob(job_id="1", method="fake", config=FakeConfig())
    job = RunningJob(message, Turns(), sent.append, lambda: now)
    job.start()
    job.progress(0, "load")
    now += 60
    job.progress(0, "upscale")
    for percent in (10, 20, 30):
        now += 5
        job.progress(percent, "upscale", tail_s=4.0)
    assert sent[-1].eta_s == 7 * 5 + 4
    now += 1000
    job.progress(30, "running")
    assert sent[-1].eta_s is None
    now += 6
    job.progress(40, "upscale", tail_s=4.0)
    assert sent[-1].eta_s == 6 * 6 + 4
    now += 36
    job.progress(100, "encode", tail_s=4.0)
    assert sent[-1].eta_s == 4
