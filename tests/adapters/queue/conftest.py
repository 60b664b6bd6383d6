"""A fleet on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_fleet import Fleet, running_fleet


@pytest.fixture(params=["redis", "bullmq"], ids=["celery", "bullmq"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Without machines."""
    with running_fleet(request.param, tmp_path) as running:
        yield running
