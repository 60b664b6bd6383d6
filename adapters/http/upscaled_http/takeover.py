"""Reads the daemon's journal before a daemon is started.

No other process uses the journal then, so it has all that is known of the open jobs. A job with an
end there has ended. A job that is pending there is accepted by the next daemon unasked. Any other
job never reached the daemon.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from upscaled.messages import Message
from upscaled_protocol.lines import decode_line
from upscaled_supervisor.journal import Journal, JournalError, JournalHeldError


class Takeover(NamedTuple):
    """ends: terminal messages by job. pending: jobs that the next daemon will accept. fault: why
    the journal cannot be read; a daemon could not start either."""

    ends: dict[str, Message]
    pending: frozenset[str]
    fault: str | None = None


def read_journal(path: Path, job_ids: list[str]) -> Takeover | None:
    """The journal's content about these jobs; None while another process uses the journal."""
    try:
        with contextlib.closing(Journal(path)) as journal:
            ends = {}
            for job_id, event in zip(job_ids, journal.events(job_ids), strict=True):
                if event:
                    ends[job_id] = decode_line(event)
            pending = frozenset(job.job_id for job in journal.pending())
    except JournalHeldError:
        return None
    except JournalError as error:
        return Takeover({}, frozenset(), str(error))
    except sqlite3.Error as error:
        return Takeover({}, frozenset(), f"the journal cannot be read: {error}")
    return Takeover(ends, pending)
