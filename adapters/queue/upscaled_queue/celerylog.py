"""What a machine's log has of Celery: its warnings, and none of them over and over."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning, Reject
from celery.platforms import SecurityWarning

from upscaled_queue.seldom import Seldom


def log_little(**_: Any) -> None:
    """Log only Celery's warnings: the machine's log has a line for each job."""
    # About root and pickle, which is not accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(SeldomLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


# It shows a message that it cannot take whole, below a line of its own.
_CONSUMER = "celery.worker.consumer.consumer"


class SeldomLines(logging.Filter):
    """Passes a line once per minute, and nothing of a message: its URLs may have tokens."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line that was logged within the last minute, for one about a setting that is
        set here, which Celery shows in spite of the filter of warnings, and for a job that is given
        back: the machine has logged it, and Celery shows a traceback."""
        if record.exc_info and isinstance(record.exc_info[1], Reject):
            return False
        line = record.getMessage()
        if record.name == _CONSUMER:
            line = line.partition("\n")[0].partition(" [type:")[0]
            record.msg, record.args = line, ()
        return CPendingDeprecationWarning.__name__ not in line and self._seldom.is_due(line)
