"""The daemon's journal, read by a server that starts."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from upscaled_http.takeover import read_journal
from upscaled_supervisor.journal import Journal


def test_a_journal_without_a_column_is_a_fault_and_can_be_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    with contextlib.closing(Journal(path)) as journal:
        journal.accept("a", b"{}")
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE jobs RENAME COLUMN line TO removed")
    found = read_journal(path, ["a"])
    assert found is not None
    assert found.fault is not None
    assert f"the journal {path} is damaged" in found.fault
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE jobs RENAME COLUMN removed TO line")
    mended = read_journal(path, ["a"])
    assert mended is not None
    assert (mended.pending, mended.fault) == (frozenset("a"), None)
