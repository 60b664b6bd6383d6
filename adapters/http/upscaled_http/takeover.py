"""What the daemon's journal tells of the jobs that have not ended, before a daemon has it.

Nobody else holds the journal then, so this is all that there is to know: an end that is recorded
there happened, a job that is pending there is accepted by the next daemon by itself, and any other
job never reached it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import NamedTuple

from upscaled.messages import Message
from upscaled_protocol.lines import decode_line
from upscaled_supervisor.journal import Journal, JournalError, JournalHeldError


class Takeover(NamedTuple):
    """ends: terminal messages by job. pending: jobs that the next daemon will accept. fault: why
    the journal cannot be read; the daemon tells the same, and does not start."""

    ends: dict[str, Message]
    pending: frozenset[str]
    fault: str | None = None


def read_journal(path: Path, job_ids: list[str]) -> Takeover | None:
    """What the journal has of these jobs; None while another process holds it."""
    try:
        journal = Journal(path)
    except JournalHeldError:
        return None
    except JournalError as error:
        return Takeover({}, frozenset(), str(error))
    try:
        ends = {}
        for job_id, event in zip(job_ids, journal.events(job_ids), strict=True):
            if event:
                ends[job_id] = decode_line(event)
        pending = frozenset(job.job_id for job in journal.pending())
    except sqlite3.Error as error:
        return Takeover({}, frozenset(), f"the journal cannot be read: {error}")
    finally:
        journal.close()
    return Takeover(ends, pending)
