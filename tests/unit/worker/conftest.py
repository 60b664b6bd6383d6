"""What the worker's tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker_in_memory import StartWorker, workers_in_memory


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts workers in this process, with the fake engine unless others are given."""
    with workers_in_memory(tmp_path) as start:
        yield start
