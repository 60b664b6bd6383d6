"""One server and one daemon for the tests of a module: each takes a while to start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from imagen_host import NOBODY, SUPERVISOR, Host, serving
from upscaled_models.imagen.loopback import Loopback
from upscaled_models.registry import is_installed

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


@pytest.fixture(autouse=True, scope="session")
def imagen_is_installed() -> None:
    if not is_installed("imagen"):
        pytest.skip("needs pip install 'upscaled[imagen]'")


@pytest.fixture(scope="module")
def shared_server() -> Iterator[Loopback]:
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def shared_daemon(shared_server: Loopback, start_shared_daemon: StartDaemon) -> Daemon:
    return start_shared_daemon(
        *SUPERVISOR, "--cloud-calls-per-minute", "10000", "--cloud-jobs", "4",
        env=NOBODY | shared_server.environment(),
    )  # fmt: skip


@pytest.fixture
def server(shared_server: Loopback) -> Loopback:
    """The server, with nothing to remember and in its best mood."""
    shared_server.answers = ["right"]
    shared_server.delay_s = 0.0
    shared_server.retry_after = None
    shared_server.questions.clear()
    shared_server.refusals.clear()
    shared_server.abandoned = shared_server.most_at_once = 0
    return shared_server


@pytest.fixture
def host(shared_daemon: Daemon, server: Loopback, request: pytest.FixtureRequest) -> Host:
    return Host(shared_daemon, request.node.name)
