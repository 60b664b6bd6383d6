"""Jobs in a journal: they outlive the supervisor, and each has one terminal event."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
from pathlib import Path

import pytest

from simulation import Simulation, simulated
from upscaled_supervisor import journal as journals

HANG = {"hang": True}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def leave_pending(path: Path, name: str = "a", **fields: object) -> None:
    """Have a daemon accept a job and be killed before its end."""
    with simulated("--journal", str(path)) as daemon:
        daemon.job(name, config=HANG, **fields)
        daemon.wait_held(name)


def change(path: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()


def test_accepted_jobs_are_finished_after_a_kill_and_ended_ones_are_not_repeated(
    path: Path,
) -> None:
    with simulated("--journal", str(path)) as daemon:
        daemon.job("done")
        daemon.wait_terminal("done")
        daemon.job("running", config=HANG)
        daemon.job("late")
        daemon.wait_held("late")
    with simulated("--journal", str(path)) as daemon:
        daemon.wait_held("running").finish("running")
        for name in ("running", "late"):
            daemon.wait_accepted(name)
            assert daemon.wait_terminal(name)["type"] == "result"
        assert daemon.finish() == 0
        assert len(daemon.terminals()) == 2
    with simulated("--journal", str(path)) as daemon:
        assert daemon.finish() == 0
        assert daemon.terminals() == []


def test_results_that_a_host_missed_are_sent_again_on_request(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        for name in ("a", "b", "c"):
            daemon.job(name)
        daemon.finish()
        sent = {line["job_id"]: line for line in daemon.terminals()}
    with simulated("--journal", str(path)) as daemon:
        daemon.send({"type": "replay", "job_ids": ["b", "unknown"]})
        assert daemon.wait_terminal("b") == sent["b"]
        daemon.send({"type": "replay"})
        daemon.finish()
        assert [line["job_id"] for line in daemon.terminals()] == ["b", "a", "b", "c"]


def test_the_id_of_a_pending_job_stays_taken_over_a_restart(path: Path) -> None:
    leave_pending(path)
    with simulated("--journal", str(path)) as daemon:
        daemon.job("a")
        refusal = daemon.wait_for(lambda line: line.get("code") == "duplicate_job")
        assert refusal["refused_job_id"] == "a"


def test_a_terminated_daemon_leaves_unfinished_jobs_to_the_journal(path: Path) -> None:
    with simulated("--journal", str(path), "--grace-s", "5") as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.system.raise_signal(signal.SIGTERM)
        assert daemon.wait() == 1
        assert daemon.terminals() == []
    with simulated("--journal", str(path)) as daemon:
        daemon.wait_held("a").finish("a")
        assert daemon.wait_terminal("a")["type"] == "result"


def test_a_job_stays_charged_with_its_attempts_over_a_restart(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        daemon.job("poison", config=HANG)
        daemon.wait_held("poison").exit(1)
        daemon.wait_until(lambda: "poison" in daemon.worker.jobs, "second attempt")
    with simulated("--journal", str(path)) as daemon:
        daemon.wait_held("poison").exit(1)
        error = daemon.wait_terminal("poison")
        assert (error["code"], error["attempt"]) == ("poisoned", 2)


def test_a_job_that_used_its_attempts_as_the_daemon_was_killed_ends(path: Path) -> None:
    leave_pending(path)
    change(path, "UPDATE jobs SET attempts = 2")
    with simulated("--journal", str(path)) as daemon:
        assert daemon.wait_terminal("a")["code"] == "poisoned"
        daemon.settle()
        assert daemon.workers[0].received == []


def test_a_deadline_starts_anew_after_a_restart(path: Path) -> None:
    leave_pending(path, timeout_s=50.0)
    with simulated("--journal", str(path)) as daemon:
        start = daemon.system.time
        assert daemon.wait_terminal("a")["code"] == "deadline_exceeded"
        assert daemon.system.time - start == pytest.approx(50.0, abs=1.0)


def test_a_line_that_is_damaged_on_disk_is_answered_once(path: Path) -> None:
    leave_pending(path)
    change(path, "UPDATE jobs SET line = x'00ff'")
    with simulated("--journal", str(path)) as daemon:
        assert daemon.wait_terminal("a")["code"] == "invalid_json"
        daemon.job("b")
        assert daemon.wait_terminal("b")["type"] == "result"
        daemon.finish()
    with simulated("--journal", str(path)) as daemon:
        assert daemon.finish() == 0
        assert daemon.terminals() == []


def test_a_host_cannot_name_the_attempt_over_a_restart_either(path: Path) -> None:
    leave_pending(path, attempt=7)
    with simulated("--journal", str(path)) as daemon:
        assert daemon.wait_held("a").jobs["a"]["attempt"] == 1


def test_a_cancel_that_comes_before_the_journal_ends_the_job_in_it(path: Path) -> None:
    leave_pending(path)
    with (
        contextlib.closing(journals.Journal(path)) as held,
        simulated("--journal", str(path), "--grace-s", "600") as daemon,
    ):
        assert "another supervisor holds it" in daemon.wait_status("degraded")["detail"]
        daemon.cancel("a")
        daemon.run_for(1.0)
        held.close()
        assert daemon.wait_terminal("a")["code"] == "cancelled"


def test_a_journal_is_taken_over_when_it_is_free(path: Path) -> None:
    with (
        contextlib.closing(journals.Journal(path)) as held,
        simulated("--journal", str(path), "--grace-s", "600") as daemon,
    ):
        daemon.job("b")
        daemon.job("c")
        daemon.send({"type": "replay"})
        daemon.cancel("c")
        assert daemon.wait_terminal("c")["code"] == "cancelled"
        report = daemon.wait_health(lambda one: one["status"] == "degraded")
        assert "holds it" in report["detail"]
        daemon.run_for(2.0)
        assert not [line for line in daemon.lines if line["type"] == "accepted"]
        held.accept("a", b'{"job_id":"a","method":"fake"}')
        held.finish("a", b'{"type":"result","job_id":"a"}\n')
        held.close()
        assert daemon.wait_terminal("b")["type"] == "result"
        daemon.wait_terminal("a")  # which the replay sends again
        assert daemon.finish() == 1  # `c` was cancelled


def test_a_journal_that_stays_held_ends_the_daemon(path: Path) -> None:
    with (
        contextlib.closing(journals.Journal(path)),
        simulated("--journal", str(path), "--grace-s", "1") as daemon,
    ):
        daemon.job("b")
        assert daemon.wait() == 3
        assert b"another supervisor holds it" in daemon.stderr
        # It was never accepted, so that the host can give it to another daemon.
        assert not [line for line in daemon.lines if line.get("job_id") == "b"]


def test_a_journal_in_a_folder_that_is_missing_says_what_it_needs(path: Path) -> None:
    daemon = Simulation("--journal", str(path / "missing" / "jobs.db"))
    assert daemon.wait() == 3
    assert b"its folder must exist, be writable, have room" in daemon.stderr
    daemon.close()


@pytest.mark.parametrize(
    "content", [b"this is no database" * 100, b"SQLite format 3\0" + b"x" * 5000]
)
def test_a_damaged_journal_is_refused_before_any_job_is_taken(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    daemon = Simulation("--journal", str(path))
    assert daemon.wait() == 3
    assert b"journal_unusable" in daemon.stderr
    assert daemon.lines == []
    assert path.read_bytes() == content
    daemon.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE sqlite_schema SET sql = replace(sql, 'DEFAULT', CAST(x'86' AS TEXT))",
        "UPDATE sqlite_schema SET sql = replace(sql, 'line', 'l1ne') WHERE name = 'jobs'",
    ],
)
def test_a_journal_with_a_damaged_schema_is_refused_with_a_sentence(
    path: Path, damage: str
) -> None:
    leave_pending(path)
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA writable_schema = ON")
        database.execute(damage)
        database.commit()
    daemon = Simulation("--journal", str(path))
    assert daemon.wait() == 3
    assert b"is damaged" in daemon.stderr
    assert daemon.lines == []
    daemon.close()


def test_a_damaged_journal_that_becomes_free_takes_no_job(path: Path) -> None:
    leave_pending(path)
    with (
        contextlib.closing(journals.Journal(path)) as held,
        simulated("--journal", str(path), "--grace-s", "600") as daemon,
    ):
        daemon.job("b")
        daemon.run_for(2.0)
        held._db.execute("PRAGMA writable_schema = ON")
        held._db.execute("UPDATE sqlite_schema SET sql = replace(sql, 'line', 'l1ne')")
        held.close()
        assert daemon.wait() == 3
        assert not [line for line in daemon.lines if line.get("job_id") == "b"]


def test_a_journal_of_another_version_is_left_alone(path: Path) -> None:
    change(path, "PRAGMA user_version = 9")
    content = path.read_bytes()
    daemon = Simulation("--journal", str(path))
    assert daemon.wait() == 3
    assert b"has version 9, not 1" in daemon.stderr
    assert path.read_bytes() == content
    daemon.close()


def test_a_journal_removed_in_use_takes_no_more_jobs(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        daemon.job("a")
        daemon.wait_terminal("a")
        for file in path.parent.glob("jobs.db*"):
            file.unlink()
        daemon.job("b")
        error = daemon.wait_terminal("b")
        assert error["code"] == "journal_unwritable"
        assert "removed" in error["error"]


def test_wrong_options_of_the_workers_leave_the_jobs_to_the_journal(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        daemon.job("a", config=HANG)
        daemon.wait_held("a")
        daemon.system.report({"usage": "there is no option --foo"})
        assert daemon.wait() == 2
        assert daemon.terminals() == []
    with contextlib.closing(journals.Journal(path)) as journal:
        assert [job.job_id for job in journal.pending()] == ["a"]


def test_a_journal_is_a_file_whatever_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    journals.Journal(Path(":memory:")).close()
    assert (tmp_path / ":memory:").is_file()


def test_a_journal_is_readable_only_to_its_owner(path: Path) -> None:
    with contextlib.closing(journals.Journal(path)) as journal:
        journal.accept("a", b"{}")
        files = list(path.parent.iterdir())
        assert len(files) > 1
        assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_a_long_replay_lets_everything_else_go_on(path: Path) -> None:
    with simulated("--journal", str(path)) as daemon:
        daemon.job("a")
        daemon.wait_terminal("a")
        unknown = [str(number) for number in range(5000)]
        daemon.send({"type": "replay", "job_ids": [*unknown, "a"]}, {"type": "health"})
        daemon.finish()
        kinds = [line["type"] for line in daemon.lines if line["type"] in ("result", "health")]
        assert kinds == ["result", "health", "result"]


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
        "UPDATE jobs SET job_id = CAST(x'ff' AS TEXT)",
        "UPDATE jobs SET attempts = 'many', line = NULL",
        "UPDATE jobs SET seq = 'last'",
    ],
)
def test_a_damaged_row_affects_no_other_job(path: Path, damage: str) -> None:
    leave_pending(path)
    change(path, damage)
    with simulated("--journal", str(path)) as daemon:
        daemon.send({"type": "replay"}, {"type": "replay", "job_ids": ["a"]})
        daemon.cancel("a")  # if it is left, it would hang
        daemon.job("b")
        assert daemon.wait_terminal("b")["type"] == "result"
        assert daemon.finish() in (0, 1)
        assert not [line for line in daemon.terminals() if line["job_id"] not in ("a", "b")]


def test_events_are_kept_within_their_bytes_and_pending_jobs_always(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "_KEPT_BYTES", 10_000)
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
