"""The page in a real Chromium, with a real server and daemon; the engine alone is a stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from chromium import opened_page, running_chromium
from nearest_engine import HOLD, environment
from running_serve import RunningServe, running_serve


@pytest.fixture(scope="module")
def held_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("held") / "hold"


@pytest.fixture(scope="module")
def daemon_environment(held_file: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        patch.setenv(HOLD, str(held_file))
        yield


@pytest.fixture
def held_jobs(held_file: Path) -> Iterator[Path]:
    """While this file exists, no job of the stand-in ends."""
    yield held_file
    held_file.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def shared_serve(
    daemon_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServe]:
    folder = tmp_path_factory.mktemp("open")
    with running_serve(folder, workers={"methods": ("esrgan", "fake")}) as running:
        yield running


@pytest.fixture
def serve(shared_serve: RunningServe) -> RunningServe:
    """The server, without the jobs of earlier tests."""
    for job in shared_serve.client.get("/api/jobs").json()["jobs"]:
        shared_serve.client.delete(job["status_url"])
    return shared_serve


# Chromium is driven by an event loop in the tests' thread, so it must not outlive these tests.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, serve: RunningServe) -> Iterator[Page]:
    with opened_page(browser, serve.url) as opened:
        yield opened
