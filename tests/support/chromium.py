"""A real Chromium for the page: one per module, a page of its own per test, steps of the tests."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import (
    Browser,
    FilePayload,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)

# Chromium as root has no sandbox, and a container's /dev/shm is small. The rest keeps it from
# asking its makers' servers.
_ARGS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# Far beyond what anything on the page takes, even on a busy machine.
TIMEOUT_MS = 30_000

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """The system's Chromium. Skips the test if there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser: Browser, url: str, **context: Any) -> Iterator[Page]:
    """The page with a storage of its own. An exception in it, or a request to another origin, fails
    the test."""
    context.setdefault("viewport", DESKTOP)
    # No animation: the tests click what moves.
    settings = {"reduced_motion": "reduce", "accept_downloads": True, **context}
    with browser.new_context(**settings) as opened:
        page = opened.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        faults: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))

        def check_origin(address: str) -> None:
            if not address.startswith((url, "blob:", "data:")):
                faults.append(f"a request to {address}")

        opened.on("request", lambda request: check_origin(request.url))
        page.goto(url)
        yield page
        assert not faults, faults


def picture(name: str, width: int = 64, height: int = 48, kind: str = "PNG") -> FilePayload:
    """A file for a form: a gradient, so that its thumbnail shows something."""
    image = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    data = io.BytesIO()
    image.save(data, kind)
    return {"name": name, "mimeType": Image.MIME[kind], "buffer": data.getvalue()}


def choose(page: Page, *files: FilePayload) -> None:
    """Choose files, and wait until the page has read them."""
    page.locator("#files").set_input_files(list(files))
    expect(page.locator("#tray-title")).to_have_text("Ready to start")


def start(page: Page, *files: FilePayload) -> None:
    choose(page, *files)
    page.locator("#start").click()


def pick(page: Page, name: str, value: str) -> None:
    """Choose a radio button, which lies under its label."""
    page.locator(f"input[name={name}][value='{value}']").check(force=True)


def add_model(page: Page, **fields: object) -> None:
    """As if the server had one more model, which is the default of its method."""

    def with_one_more(route: Route) -> None:
        answer = route.fetch()
        listed = answer.json()
        listed["models"].append({"installed": True, "default": True, **fields})
        route.fulfill(response=answer, json=listed)

    page.route("**/api/models", with_one_more)


def staged(page: Page, name: str) -> Locator:
    return page.locator(".staged", has_text=name)


def row(page: Page, name: str) -> Locator:
    return page.locator(".row", has_text=name)


def card(page: Page, name: str) -> Locator:
    return page.locator(".card", has_text=name)


def compare(page: Page, name: str) -> None:
    card(page, name).locator("[data-action=compare]").click()
    expect(page.locator("#compare")).not_to_have_class(re.compile("is-loading"))


def shown(sizes: str) -> str:
    """Sizes as the page writes them."""
    return re.sub("(?<=[0-9])x(?=[0-9])", " \N{MULTIPLICATION SIGN} ", sizes)


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def box(locator: Locator) -> dict[str, float]:
    found = locator.bounding_box()
    assert found is not None
    return {
        "x": found["x"],
        "y": found["y"],
        "width": found["width"],
        "height": found["height"],
    }
