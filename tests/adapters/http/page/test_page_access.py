"""Who can use the page: keys, screen readers, small screens, themes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AxeResults
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Page, expect

from chromium import (
    PHONE,
    card,
    choose,
    compare,
    opened_page,
    pick,
    picture,
    size_of,
    start,
)
from running_serve import RunningServe, running_serve
from upscaled_http.keys import Key

KEY = "a-key-of-at-least-16-characters"
Theme = Literal["light", "dark"]


def assert_accessible(page: Page, state: str, rules: list[str] | None = None) -> None:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules is not None:
        options["runOnly"] = rules
    found = AxeResults(page.evaluate("options => axe.run(options)", options))
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"


def test_a_wrong_key_is_reported_and_the_right_one_opens_the_page(
    browser: Browser, daemon_environment: None, tmp_path: Path
) -> None:
    sections = {"auth": {"keys": (Key.of("tester", KEY),)}, "workers": {"methods": ("esrgan",)}}
    with running_serve(tmp_path, **sections) as serve, opened_page(browser, serve.url) as page:
        page.get_by_label("Key", exact=True).fill("not-the-key")
        page.get_by_role("button", name="Use this key").click()
        expect(page.locator("#key-fault")).to_contain_text("does not know this key")
        expect(page.locator("#main")).to_be_hidden()
        page.get_by_label("Key", exact=True).fill(KEY)
        page.keyboard.press("Enter")
        start(page, picture("one.png"))
        expect(card(page, "one.png")).to_be_visible()
        # An address of the server would be asked without the key.
        compare(page, "one.png")
        sources = page.locator(".pane img").evaluate_all("images => images.map(image => image.src)")
        assert all(source.startswith("blob:") for source in sources)
        with page.expect_download() as download:
            page.locator("#compare-download").click()
        assert download.value.suggested_filename == "one_esrgan.png"
        assert size_of(download.value.path()) == (256, 192)
        page.keyboard.press("Escape")
        assert KEY not in json.dumps(page.evaluate("({...localStorage})"))
        page.reload()
        expect(card(page, "one.png")).to_be_visible()
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("heading", name="This server needs a key")).to_be_visible()


@pytest.mark.parametrize(("device", "theme"), [("desktop", "light"), ("phone", "dark")])
def test_nothing_hinders_a_screen_reader_and_nothing_is_wider_than_the_screen(
    browser: Browser, serve: RunningServe, held_jobs: Path, device: str, theme: Theme
) -> None:
    phone = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    context: dict[str, Any] = {"color_scheme": theme, **(phone if device == "phone" else {})}
    long_name = "a-name-that-is-much-longer-than-a-phone-is-wide-2026.png"
    text: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}

    failed = serve.submit(error_code="out_of_memory")
    serve.ended(failed["job_id"])
    with opened_page(browser, serve.url, **context) as page:

        def check(state: str) -> None:
            """All rules in this theme; on the desktop the contrast also in the other."""
            assert_accessible(page, state)
            if device == "desktop":
                page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                assert_accessible(page, f"{state}, dark", rules=["color-contrast"])
                page.emulate_media(color_scheme=theme, reduced_motion="reduce")
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.evaluate("innerWidth"), state

        page.evaluate(Axe().axe_script)
        expect(page.locator(".row[data-status=failed]")).to_contain_text(
            re.compile(r"\w\. To try again, choose the picture again\.")
        )
        page.get_by_role("button", name="Remove all").click()
        expect(page.get_by_text("The queue is empty")).to_be_visible()
        check("empty")
        choose(page, picture(long_name, 400, 300), text)
        pick(page, "size", "print")
        page.get_by_label("Cut to the exact size").check()
        page.locator("#models summary").first.click()
        check("chosen")
        page.locator("#start").click()
        expect(card(page, long_name)).to_be_visible()
        held_jobs.touch()
        start(page, picture("held.png", 400, 300))
        serve.submit(error_code="out_of_memory")
        expect(page.locator(".row[data-status=failed]")).to_be_visible()
        page.locator("#glance summary").click()
        check("busy")
        page.keyboard.press("Escape")
        compare(page, long_name)
        check("compared")


def test_the_theme_follows_the_system_until_the_switch_is_used(
    browser: Browser, serve: RunningServe
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with opened_page(browser, serve.url, color_scheme="dark") as page:
        switch = page.get_by_role("switch", name="Dark theme")
        expect(switch).to_be_checked()
        dark = page.evaluate(ground)
        switch.click()
        assert page.evaluate(ground) != dark
        page.reload()
        expect(switch).not_to_be_checked()
