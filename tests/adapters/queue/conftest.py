"""A fleet on each engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queue_fleet import Fleet, RabbitServer, running_fleet


@pytest.fixture(params=["redis", "bullmq"], ids=["celery", "bullmq"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    """Without machines."""
    with running_fleet(request.param, tmp_path) as running:
        yield running


@pytest.fixture
def rabbit(tmp_path: Path) -> Iterator[RabbitServer]:
    """RabbitMQ without queues."""
    if not Path(RabbitServer.program).exists():
        pytest.skip("rabbitmq-server is not installed")
    server = RabbitServer(tmp_path / "rabbitmq")
    try:
        if server.process.poll() is not None:
            pytest.skip("rabbitmq-server does not run here")
        yield server
    finally:
        server.close()
