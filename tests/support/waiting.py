"""A bounded wait, for what nothing tells of."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

# Far beyond what anything here takes, even on a busy machine.
TIMEOUT_S = 60.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Ask again and again; the test fails where it does not come about."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what} did not come about")
        time.sleep(0.01)
