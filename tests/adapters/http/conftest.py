"""What the tests of the sidecar share."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from webhook_bench import Run, run_on_loop


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """`configure_logging` takes the place of pytest's handlers."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    root.handlers[:] = []
    yield
    root.handlers[:], root.level = before
    for name in ("upscaled", "upscaled_http"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a test of webhooks on an event loop."""
    return lambda test: run_on_loop(test, tmp_path / "sidecar.db")
