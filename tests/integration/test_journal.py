"""Jobs in a journal survive a kill of the supervisor."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from PIL import Image

import nearest_engine
from waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


def test_accepted_jobs_are_finished_after_a_kill_of_the_supervisor(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("done")
    first.wait_terminal("done")
    first.job("running", steps=100_000, step_s=0.01)
    first.wait_progress("running")  # it has the device, so the next job waits
    first.job("late", steps=2)
    first.wait_accepted("late")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = start_supervisor("--journal", journal)
    for name in ("running", "late"):
        second.wait_accepted(name)
    second.send({"type": "cancel", "job_id": "running"})
    second.wait_terminal("running")
    assert second.wait_terminal("late")["type"] == "result"
    assert second.finish() == 1
    # A job that had ended is not done or answered again.
    assert {line["job_id"] for line in second.terminals()} == {"running", "late"}

    third = start_supervisor("--journal", journal)
    assert third.finish() == 0
    assert third.terminals() == []


def test_a_job_whose_supervisor_was_killed_before_its_result_has_one_output(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal, outputs = str(tmp_path / "jobs.db"), tmp_path / "outputs"
    picture = tmp_path / "photo.png"
    Image.new("RGB", (16, 12), "teal").save(picture)
    options = ("--journal", journal, "--output-dir", str(outputs), "--methods", "esrgan")
    env = nearest_engine.variables()
    first = start_supervisor(*options, env=env)
    first.job("earlier", "esrgan", image_path=str(picture))
    first.wait_terminal("earlier")
    # The worker finishes the job while the supervisor is stopped and cannot record it.
    worker = first.ask_health()["workers"][0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    first.job("photo", "esrgan", image_path=str(picture))
    first.wait_health(lambda health: health["workers"][0].get("jobs") == ["photo"])
    os.kill(first.pid, signal.SIGSTOP)
    os.kill(worker, signal.SIGCONT)
    second_output = outputs / "photo_esrgan_4x-2.png"
    wait_until(second_output.exists, "the output")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = start_supervisor(*options, env=env)
    assert second.wait_terminal("photo")["output_path"] == str(second_output)
    assert second.finish() == 0
    assert len(list(outputs.iterdir())) == 2


def test_a_journal_is_taken_over_from_a_daemon_that_drains(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("a", hang=True)
    first.wait_accepted("a")
    second = start_supervisor("--journal", journal, "--grace-s", "600")
    assert "another supervisor holds it" in second.wait_status("degraded")["detail"]
    second.job("b")
    second.job("c")
    second.send({"type": "replay"}, {"type": "cancel", "job_id": "c"})
    assert second.wait_terminal("c")["code"] == "cancelled"
    second.wait_health(lambda one: one["status"] == "degraded" and "holds it" in one["detail"])
    assert not [line for line in second.lines if line["type"] == "accepted"]
    first.send({"type": "cancel", "job_id": "a"})
    assert first.finish() == 1
    assert second.wait_terminal("b")["type"] == "result"
    assert second.wait_terminal("a")["code"] == "cancelled"  # which the replay sends again
    assert second.finish() == 1  # `c` was cancelled


def test_a_full_disk_refuses_jobs_clearly_and_ends_the_accepted_ones(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    """The kernel's file size limit stands for the disk: SQLite sees the same failing writes."""
    journal = str(tmp_path / "jobs.db")
    daemon = start_supervisor("--journal", journal)
    daemon.wait_status("ready")
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    padding = "x" * 10_000
    for number in range(60):
        daemon.job(str(number), output_text=padding)
    daemon.job("last", output_text=padding)
    refusal = daemon.wait_terminal("last")
    assert refusal["code"] == "journal_unwritable"
    assert refusal["retryable"] is True
    daemon.finish()
    assert len(daemon.terminals()) == 61
    assert any(line["type"] == "result" for line in daemon.terminals())


def test_a_disk_that_has_room_again_gets_the_missing_events(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("a", hang=True)
    first.wait_accepted("a")
    limit_file_size(first, 100)
    first.send({"type": "cancel", "job_id": "a"})
    sent = first.wait_terminal("a")
    first.wait_stderr(b"journal_unwritable")
    first.send({"type": "replay", "job_ids": ["a"]})
    first.wait_for(lambda line: line is not sent and line == sent, "the end again")
    limit_file_size(first, resource.RLIM_INFINITY)
    first.job("b")
    first.wait_terminal("b")
    first.kill()
    second = start_supervisor("--journal", journal)
    second.send({"type": "replay"})
    assert second.finish() == 0
    # Neither done a second time nor forgotten.
    assert [line["job_id"] for line in second.lines if "job_id" in line] == ["a", "b"]


def limit_file_size(daemon: Daemon, size: int) -> None:
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_large_replay_waits_for_a_host_that_does_not_read(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    daemon = start_supervisor("--journal", str(journal))
    text = "x" * 500_000
    for number in range(40):
        daemon.job(str(number), raise_text=text)
        daemon.wait_terminal(str(number))
    process = psutil.Process(daemon.pid)
    before = process.memory_info().rss
    daemon.stop_reading()
    daemon.send(*[{"type": "replay"}] * 10)
    daemon.close_stdin()
    daemon.wait_until_idle()
    assert process.memory_info().rss < before + 100e6  # of 200 MB
    daemon.resume_reading()
    assert daemon.wait() == 1
    assert len(daemon.terminals()) == 11 * 40
