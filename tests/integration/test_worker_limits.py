"""What a bare worker keeps to: deadlines, unread results, idle models, allowed folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


def test_a_waiting_job_ends_at_its_deadline_while_another_runs(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("runs", steps=2, at_step=1, hang=True)
    worker.wait_progress("runs")
    jobs = ("waits for the device", "waits for its lane", "too")
    for job_id in jobs:
        worker.send({"job_id": job_id, "method": "fake", "config": {}, "timeout_s": 0.01})
    assert {worker.wait_terminal(job_id)["code"] for job_id in jobs} == {"deadline_exceeded"}
    worker.job("later")  # in the place that the first of them had
    worker.send({"type": "cancel", "job_id": "runs"})
    assert worker.wait_terminal("runs")["code"] == "cancelled"
    assert worker.wait_terminal("later")["type"] == "result"
    assert worker.finish() == 0


SLOW_START = """
import time
from upscaled_models.fake import FakeEngine

FakeEngine.start = lambda self: time.sleep(3600)
"""


def test_a_job_ends_at_its_deadline_while_models_load(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_START)
    worker = start_worker(env={"PYTHONPATH": str(tmp_path)})
    worker.send({"job_id": "a", "method": "fake", "config": {}, "timeout_s": 0.01})
    assert worker.wait_terminal("a")["code"] == "deadline_exceeded"


LITTLE_UNREAD = """
import upscaled_worker.loop

upscaled_worker.loop._UNREAD_LIMIT_BYTES = 4096
"""


def test_no_job_starts_while_too_many_results_are_unread(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(LITTLE_UNREAD)
    worker = start_worker(env={"PYTHONPATH": str(tmp_path)})
    worker.wait_status("ready")
    worker.stop_reading()
    worker.ask_health()  # the last that is read
    jobs = 400  # the worker reads them at once, and a pipe holds the results of half of them
    lines = b"".join(
        b'{"job_id":"%d","method":"fake","config":{"output_path":"%d"}}\n' % (number, number)
        for number in range(jobs)
    )
    assert len(lines) < 2**16
    worker.send(lines)
    worker.wait_until_idle()
    assert 0 < len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) < jobs
    worker.resume_reading()
    assert worker.finish() == 0
    assert len(worker.terminals()) == jobs


TELL_TRIMS = """
import os
import upscaled_worker.loop
from upscaled_models.fake import FakeEngine

upscaled_worker.loop._IDLE_CHECK_S = 0.05
FakeEngine.trim = lambda self, *, idle_only=False: os.write(2, b"trimmed")
"""


def test_idle_models_go_though_a_host_asks_for_health_all_the_time(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(TELL_TRIMS)
    worker = start_worker(env={"PYTHONPATH": str(tmp_path)})
    worker.wait_status("ready")
    # More lines than it can read in that time, so that there is always something to do.
    worker.send(b'{"type":"health"}\n' * 5000)
    worker.send({"type": "health", "request_id": "last"})
    worker.wait_for(lambda line: line.get("request_id") == "last")
    assert b"trimmed" in worker.stderr


def test_the_fake_engine_writes_in_the_allowed_folders_alone(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    worker = start_worker("--allow-root", str(inside))
    paths = (outside / "a", inside / "link" / "a", inside / ".." / "outside" / "a")
    for number, path in enumerate(paths):
        worker.job(str(number), output_path=str(path), output_text="a")
        assert worker.wait_terminal(str(number))["code"] == "path_not_allowed"
    assert not list(outside.iterdir())
    worker.job("in", output_path=str(inside / "a"), output_text="a")
    assert worker.wait_terminal("in")["type"] == "result"
    assert (inside / "a").read_text() == "a"
