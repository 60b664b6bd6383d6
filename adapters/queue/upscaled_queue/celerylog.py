"""What a machine's log has of Celery: its warnings, and none of them over and over."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.platforms import SecurityWarning

# While Redis takes no writes, Celery connects again and fails some times per second.
_REPEAT_S = 60.0
# Different lines that are remembered.
_REMEMBERED = 1000


def log_little(**_: Any) -> None:
    """Log only Celery's warnings: the machine's log has a line for each job."""
    # About root and pickle, which is not accepted here.
    warnings.simplefilter("ignore", SecurityWarning)
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class Seldom(logging.Filter):
    """Passes a line once per minute."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._logged_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line that was logged within the last minute, and for one about a setting that
        is set here: Celery shows it in spite of the filter of warnings."""
        line = record.getMessage()
        if CPendingDeprecationWarning.__name__ in line:
            return False
        now = self._clock()
        if now < self._logged_at.get(line, -_REPEAT_S) + _REPEAT_S:
            return False
        if len(self._logged_at) >= _REMEMBERED:
            self._logged_at.clear()
        self._logged_at[line] = now
        return True
