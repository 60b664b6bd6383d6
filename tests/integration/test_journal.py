"""Jobs that survive the supervisor's own death."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


def test_accepted_jobs_are_finished_after_a_kill_of_the_supervisor(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("done")
    first.wait_terminal("done")
    first.job("running", steps=100_000, step_s=0.01)
    first.job("late", steps=2)
    first.wait_progress("running")
    first.wait_for(lambda line: line.get("job_id") == "late")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()

    second = start_supervisor("--journal", journal)
    for name in ("running", "late"):
        second.wait_accepted(name)
    second.send({"type": "cancel", "job_id": "running"})
    second.wait_terminal("running")
    assert second.wait_terminal("late")["type"] == "result"
    assert second.finish() == 1
    # What had ended before is not done again, nor answered again unasked.
    assert {line["job_id"] for line in second.terminals()} == {"running", "late"}

    third = start_supervisor("--journal", journal)
    assert third.finish() == 0
    assert third.terminals() == []


def test_results_that_a_host_missed_are_sent_again_on_request(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    for name in ("a", "b", "c"):
        first.job(name)
    first.finish()
    sent = {line["job_id"]: line for line in first.terminals()}

    second = start_supervisor("--journal", journal)
    second.send({"type": "replay", "job_ids": ["b", "unknown"]})
    assert second.wait_terminal("b") == sent["b"]
    second.send({"type": "replay"})
    second.finish()
    assert [line["job_id"] for line in second.terminals()] == ["b", "a", "b", "c"]


def test_the_id_of_a_pending_job_stays_taken_over_a_restart(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("a", steps=100_000, step_s=0.01)
    first.wait_progress("a")
    first.kill()
    second = start_supervisor("--journal", journal)
    second.wait_accepted("a")
    second.job("a")
    refusal = second.wait_for(lambda line: line.get("code") == "duplicate_job")
    assert refusal["refused_job_id"] == "a"


def test_terminate_leaves_unfinished_jobs_to_the_journal(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal, "--grace-s", "0.2")
    first.job("a", hang=True, only_on_attempt=1)
    first.wait_status("ready")
    os.kill(first.pid, signal.SIGTERM)
    first.wait()
    assert first.terminals() == []
    second = start_supervisor("--journal", journal)
    second.wait_accepted("a")
    second.send({"type": "cancel", "job_id": "a"})
    assert second.wait_terminal("a")["code"] == "cancelled"


def test_a_job_stays_charged_with_the_workers_it_took_down(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("poison", exit_code=1, only_on_attempt=1, steps=2)
    first.wait_terminal("poison")
    rows = sqlite3.connect(journal).execute
    first.kill()
    attempts = rows("SELECT attempts FROM jobs WHERE job_id = 'poison'").fetchone()
    assert attempts == (1,)


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_damaged_journal_is_told_before_any_job_is_taken(
    start_supervisor: StartDaemon, tmp_path: Path, content: bytes
) -> None:
    journal = tmp_path / "jobs.db"
    journal.write_bytes(content)
    daemon = start_supervisor("--journal", str(journal))
    assert daemon.wait() == 3
    assert b"journal_unusable" in daemon.stderr
    assert daemon.lines == []
    assert journal.read_bytes() == content


def test_two_supervisors_never_share_a_journal(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("a")
    first.wait_terminal("a")
    second = start_supervisor("--journal", journal)
    assert second.wait() == 3
    assert b"another supervisor holds it" in second.stderr


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
