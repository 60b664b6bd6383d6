"""Waits that have an end."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

# Far beyond what anything takes, also on a machine that stands still now and then.
TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Check again and again. The test fails if `what` does not happen in time."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come about")
        time.sleep(0.01)
