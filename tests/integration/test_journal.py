"""Jobs that survive the supervisor's own death."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from PIL import Image

from journals import running_in
from upscaled_supervisor import journal as journals
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
    first.wait_progress("running")  # it has the device now: the next job waits for it
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
    # What had ended before is not done again, nor answered again unasked.
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
    first = start_supervisor(*options)
    first.job("earlier", "esrgan", image_path=str(picture))
    first.wait_terminal("earlier")
    # The worker goes on once its supervisor hears nothing more of it.
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

    second = start_supervisor(*options)
    assert second.wait_terminal("photo")["output_path"] == str(second_output)
    assert second.finish() == 0
    assert len(list(outputs.iterdir())) == 2


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
    first.job("a", hang=True)
    first.wait_accepted("a")
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


def test_a_job_that_takes_the_daemon_down_ends_after_three_deaths(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    for number in range(3):
        daemon = start_supervisor("--journal", journal)
        if number == 0:
            daemon.job("deadly", steps=100_000, step_s=0.01)
            daemon.job("late", steps=2)
        daemon.wait_accepted("late")
        daemon.wait_progress("deadly")
        wait_until(lambda: running_in(tmp_path / "jobs.db") == 1, "the record of the run")
        daemon.kill()
        assert daemon.terminals() == []
    last = start_supervisor("--journal", journal)
    assert last.wait_terminal("late")["type"] == "result"
    error = last.wait_terminal("deadly")
    assert (error["code"], error["cause"]) == ("poisoned", {"reason": "supervisor_killed"})
    assert "3 times" in error["error"]
    assert last.finish() == 1


def test_a_daemon_that_is_killed_while_it_drains_charges_no_job(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    daemon = start_supervisor("--journal", str(journal), "--grace-s", "600")
    daemon.job("a", steps=100_000, step_s=0.01)
    daemon.wait_progress("a")
    wait_until(lambda: running_in(tmp_path / "jobs.db") == 1, "the record of the run")
    os.kill(daemon.pid, signal.SIGTERM)
    wait_until(lambda: running_in(tmp_path / "jobs.db") == 0, "the end of charging")
    daemon.kill()
    with contextlib.closing(journals.Journal(journal)) as opened:
        assert [(job.job_id, job.deaths) for job in opened.pending()] == [("a", 0)]


def test_a_daemon_that_is_told_to_end_now_charges_no_job(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    daemon = start_supervisor("--journal", str(journal))
    daemon.job("a", steps=100_000, step_s=0.01)
    daemon.wait_progress("a")
    wait_until(lambda: running_in(tmp_path / "jobs.db") == 1, "the record of the run")
    os.kill(daemon.pid, signal.SIGTERM)
    daemon.wait_status("draining")
    os.kill(daemon.pid, signal.SIGTERM)
    daemon.wait()
    with contextlib.closing(journals.Journal(journal)) as opened:
        assert [(job.job_id, job.deaths) for job in opened.pending()] == [("a", 0)]


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


def test_a_journal_that_is_held_for_good_ends_the_daemon(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = str(tmp_path / "jobs.db")
    first = start_supervisor("--journal", journal)
    first.job("a")
    first.wait_terminal("a")
    second = start_supervisor("--journal", journal, "--grace-s", "0.1")
    second.job("b")
    assert second.wait() == 3
    assert b"another supervisor holds it" in second.stderr
    # It was never accepted, so that the host can give it to another daemon.
    assert not [line for line in second.lines if line.get("job_id") == "b"]


def test_a_journal_is_readable_to_its_owner_alone(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    daemon = start_supervisor("--journal", str(folder / "jobs.db"))
    daemon.job("a")
    daemon.wait_terminal("a")
    files = list(folder.iterdir())
    assert len(files) > 1
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


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


def leave_pending(start_supervisor: StartDaemon, journal: Path, **job: object) -> None:
    """Have a job in the journal that was accepted and never ended."""
    daemon = start_supervisor("--journal", str(journal))
    daemon.wait_status("ready")
    daemon.send({"job_id": "a", "method": "fake", "config": {"hang": True}, **job})
    daemon.wait_accepted("a")
    daemon.kill()


def change(journal: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(journal)) as database:
        database.execute(statement)
        database.commit()


def test_a_disk_that_has_room_again_makes_the_journal_whole(
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


def test_a_full_disk_is_tried_again_without_a_new_job(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    daemon = start_supervisor("--journal", str(journal))
    daemon.job("a", hang=True)
    daemon.wait_accepted("a")
    limit_file_size(daemon, 100)
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.wait_terminal("a")
    daemon.wait_stderr(b"journal_unwritable")
    wal = tmp_path / "jobs.db-wal"
    size = wal.stat().st_size
    limit_file_size(daemon, resource.RLIM_INFINITY)
    wait_until(lambda: wal.stat().st_size > size, "the event on the disk")


def limit_file_size(daemon: Daemon, size: int) -> None:
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def test_a_journal_taken_away_in_use_takes_no_more_jobs(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    daemon = start_supervisor("--journal", str(journal))
    daemon.job("a")
    daemon.wait_terminal("a")
    for file in tmp_path.glob("jobs.db*"):
        file.unlink()
    daemon.job("b")
    error = daemon.wait_terminal("b")
    assert error["code"] == "journal_unwritable"
    assert "removed" in error["error"]


def test_a_journal_is_a_file_whatever_its_name(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_supervisor("--journal", ":memory:")
    daemon.job("a")
    daemon.wait_terminal("a")
    assert daemon.finish() == 0
    assert (tmp_path / ":memory:").is_file()


def test_a_journal_of_another_version_is_left_alone(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    change(journal, "PRAGMA user_version = 9")
    content = journal.read_bytes()
    daemon = start_supervisor("--journal", str(journal))
    assert daemon.wait() == 3
    assert b"has version 9, not 1" in daemon.stderr
    assert journal.read_bytes() == content


def test_a_deadline_holds_over_a_restart(start_supervisor: StartDaemon, tmp_path: Path) -> None:
    journal = tmp_path / "jobs.db"
    # While its own supervisor lives a worker has much longer to obey.
    leave_pending(start_supervisor, journal, timeout_s=2.0, config={"hang_native": True})
    second = start_supervisor("--journal", str(journal), "--cancel-grace-s", "0.5")
    assert second.wait_terminal("a")["code"] == "deadline_exceeded"


def test_a_host_cannot_name_the_attempt_over_a_restart_either(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    endless = {"steps": 100_000, "step_s": 0.01}
    leave_pending(start_supervisor, journal, attempt=7, config=endless)
    second = start_supervisor("--journal", str(journal))
    assert second.wait_progress("a")["attempt"] == 1
    second.send({"type": "cancel", "job_id": "a"})
    assert second.wait_terminal("a")["attempt"] == 1


def test_a_job_that_is_damaged_in_the_journal_is_answered_and_harms_no_other(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    leave_pending(start_supervisor, journal)
    change(journal, "UPDATE jobs SET line = x'00ff'")
    second = start_supervisor("--journal", str(journal))
    assert second.wait_terminal("a")["code"] == "invalid_json"
    second.job("b")
    assert second.wait_terminal("b")["type"] == "result"
    second.finish()
    third = start_supervisor("--journal", str(journal))
    assert third.finish() == 0
    assert third.terminals() == []


def test_a_job_whose_attempts_are_used_up_is_not_started_once_more(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    """Its supervisor was killed between the last charge and the answer."""
    journal = tmp_path / "jobs.db"
    leave_pending(start_supervisor, journal)
    change(journal, "UPDATE jobs SET attempts = 2")
    second = start_supervisor("--journal", str(journal))
    assert second.wait_terminal("a")["code"] == "poisoned"


def test_jobs_left_to_the_journal_are_no_success(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_supervisor("--journal", str(tmp_path / "jobs.db"), "--grace-s", "0.2")
    daemon.job("a", hang=True)
    daemon.wait_accepted("a")
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.wait() == 1


def test_a_misspelt_option_burns_no_journalled_job(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    journal = tmp_path / "jobs.db"
    leave_pending(start_supervisor, journal)
    second = start_supervisor("--journal", str(journal), "--no-such-option")
    assert second.wait() == 2
    assert second.terminals() == []
    third = start_supervisor("--journal", str(journal))
    third.wait_accepted("a")


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


def test_a_long_replay_lets_everything_else_go_on(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_supervisor("--journal", str(tmp_path / "jobs.db"))
    daemon.job("a")
    daemon.wait_terminal("a")
    # So many that they take longer than a worker that answers nothing at all is waited for.
    unknown = [str(number) for number in range(500_000)]
    daemon.send({"type": "replay", "job_ids": [*unknown, "a"]}, {"type": "health"})
    daemon.finish()
    kinds = [line["type"] for line in daemon.lines if line["type"] in ("result", "health")]
    assert kinds == ["result", "health", "result"]


def test_events_are_kept_within_their_bytes_and_pending_jobs_always(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_KEPT_BYTES", 10_000)
    path = tmp_path / "jobs.db"
    journal = journals.Journal(path)
    journal.accept("pending", b"{}")
    sizes = [100, 900, 4000]
    events = [b'{"%d":"%b"}\n' % (number, b"." * sizes[number % 3]) for number in range(300)]
    for number, event in enumerate(events):
        # Half of the ids are used again: what they had is replaced.
        job_id = str(number % 150)
        journal.accept(job_id, b"{}")
        journal.finish(job_id, event)
        kept = list(journal.events(None))
        assert sum(map(len, kept)) <= 10_000
        assert kept == events[number + 1 - len(kept) : number + 1]
        assert len(kept) >= 2 or number == 0
        if number == 150:
            journal.close()
            journal = journals.Journal(path)
    assert [job.job_id for job in journal.pending()] == ["pending"]
    journal.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE jobs SET line = NULL",
        "UPDATE jobs SET line = 7",
        'UPDATE jobs SET line = \'{"type":"health"}\'',
        'UPDATE jobs SET line = CAST(\'{"type":"health"}\' AS BLOB)',
        'UPDATE jobs SET line = CAST(\'{"job_id":"x","method":"fake"}\' AS BLOB)',
        "UPDATE jobs SET event = 'two\nlines'",
        "UPDATE jobs SET event = 3.5",
        "UPDATE jobs SET job_id = x'ff'",
        "UPDATE jobs SET attempts = 'many', line = NULL",
        "UPDATE jobs SET seq = 'last'",
    ],
)
def test_a_row_of_any_other_types_harms_no_other_job(
    start_supervisor: StartDaemon, tmp_path: Path, damage: str
) -> None:
    journal = tmp_path / "jobs.db"
    leave_pending(start_supervisor, journal)
    change(journal, damage)
    daemon = start_supervisor("--journal", str(journal))
    daemon.send({"type": "replay"}, {"type": "replay", "job_ids": ["a"]})
    daemon.send({"type": "cancel", "job_id": "a"})  # where it is left, it would hang
    daemon.job("b")
    assert daemon.wait_terminal("b")["type"] == "result"
    daemon.send({"type": "shutdown"})
    assert daemon.wait() in (0, 1)
    assert not [line for line in daemon.terminals() if line["job_id"] not in ("a", "b")]
