"""The page in a real Chromium, with a real server and daemon; the engine alone is a stand-in."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.base import AxeResults
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FilePayload, Page, Route, expect

from chromium import (
    PHONE,
    box,
    card,
    choose,
    compare,
    opened_page,
    pick,
    picture,
    row,
    running_chromium,
    shown,
    size_of,
    staged,
    start,
)
from nearest_engine import HOLD, environment
from running_serve import RunningServe, running_serve
from upscaled_http.keys import Key

KEY = "a-key-of-at-least-16-characters"
Theme = Literal["light", "dark"]
RUNS = re.compile("queued|processing")


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
def serve(
    daemon_environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServe]:
    folder = tmp_path_factory.mktemp("open")
    with running_serve(folder, workers={"methods": ("esrgan", "fake")}) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as running:
        yield running


@pytest.fixture
def page(browser: Browser, serve: RunningServe) -> Iterator[Page]:
    remove_jobs(serve)
    with opened_page(browser, serve.url) as opened:
        yield opened


def busy_worker(serve: RunningServe) -> dict[str, Any]:
    """A job of another client that runs until it is cancelled."""
    return serve.submit(steps=4, at_step=2, hang=True)


def remove_jobs(serve: RunningServe) -> None:
    for job in serve.client.get("/api/jobs").json()["jobs"]:
        serve.client.delete(job["status_url"])


def assert_accessible(page: Page, state: str, rules: list[str] | None = None) -> None:
    options: dict[str, Any] = {"resultTypes": ["violations"]}
    if rules is not None:
        options["runOnly"] = rules
    found = AxeResults(page.evaluate("options => axe.run(options)", options))
    assert found.violations_count == 0, f"{state}: {found.generate_report()}"


def test_three_pictures_are_enlarged_and_downloaded_one_by_one_and_as_a_zip(page: Page) -> None:
    choose(page, picture("one.png"), picture("two.jpg", kind="JPEG"), picture("three.webp", 50, 70))
    expect(staged(page, "one.png")).to_contain_text(shown("64x48 → 256x192"))
    expect(staged(page, "three.webp")).to_contain_text(shown("50x70 → 200x280"))
    expect(page.locator("#pixels")).to_have_text(shown("256x192"))
    expect(page.locator("#start")).to_have_text("Start 3 pictures")
    page.locator("#start").click()
    expect(page.locator(".card")).to_have_count(3)
    expect(page.locator(".card .thumb img")).to_have_count(3)
    # This server has no bucket.
    expect(page.locator("#pipeline")).to_be_hidden()

    with page.expect_download() as download:
        card(page, "three.webp").locator("[data-action=download]").click()
    assert download.value.suggested_filename == "three_esrgan.png"
    assert size_of(download.value.path()) == (200, 280)

    with page.expect_download() as download:
        page.get_by_role("button", name="Download all as zip").click()
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert len(set(names)) == 3


def test_pictures_come_by_drop_and_by_paste(page: Page) -> None:
    give = """([type, bytes]) => {
        const transfer = new DataTransfer();
        const file = new File([new Uint8Array(bytes)], `${type}.png`, {type: "image/png"});
        transfer.items.add(file);
        const given = {bubbles: true, dataTransfer: transfer, clipboardData: transfer};
        const Event = type === "paste" ? ClipboardEvent : DragEvent;
        document.body.dispatchEvent(new Event(type, given));
    }"""
    data = list(bytes(picture("any")["buffer"]))
    for kind in ("drop", "paste"):
        page.evaluate(give, [kind, data])
        expect(staged(page, f"{kind}.png")).to_contain_text(shown("256x192"))
    expect(page.locator("#start")).to_have_text("Start 2 pictures")


def test_a_refused_file_keeps_its_reason(page: Page) -> None:
    torn = picture("torn.png", 300, 300)
    torn["buffer"] = torn["buffer"][:20]
    text: FilePayload = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"hello"}
    start(page, text, torn, picture("good.png"))
    expect(card(page, "good.png")).to_be_visible()
    # The page itself knows that text is no picture. A torn one is sent, and the server says no.
    expect(staged(page, "notes.txt")).to_contain_text("Not a picture")
    expect(row(page, "torn.png")).to_have_attribute("data-status", "refused")
    expect(row(page, "torn.png").locator(".row-state")).to_contain_text("header")
    expect(row(page, "torn.png").locator("[data-action=retry]")).to_be_visible()
    row(page, "torn.png").locator("[data-action=remove]").click()
    expect(row(page, "torn.png")).to_have_count(0)


def test_a_file_name_is_text_and_never_markup(page: Page) -> None:
    name = "<img src=x onerror=alert(1)>.png"
    start(page, picture(name))
    expect(page.locator(".card-name")).to_have_text(name)
    page.reload()
    expect(page.locator(".card-name")).to_contain_text("onerror")
    expect(page.locator("img[src=x]")).to_have_count(0)


def test_a_print_size_is_shown_in_pixels_and_is_what_the_result_has(page: Page) -> None:
    choose(page, picture("wide.png", 96, 48))
    pick(page, "size", "print")
    page.locator("select[name=paper]").select_option("A6")
    pick(page, "dpi", "other")
    page.locator("input[name=otherDpi]").fill("100")
    expect(page.locator("#pixels")).to_have_text(shown("826x413"))
    page.get_by_label("Cut to the exact size").check()
    pick(page, "anchor", "left")
    expect(page.locator("#pixels")).to_have_text(shown("582x413"))
    expect(page.locator("#outcome-detail")).to_contain_text("244 px of the width are cut")
    page.locator("#start").click()
    expect(card(page, "wide.png")).to_contain_text(shown("582x413"))
    # The original is shown as large as before the cut, and begins at the left edge.
    compare(page, "wide.png")
    before, after = (box(page.locator(f".pane.{side} img")) for side in ("before", "after"))
    assert before["x"] == pytest.approx(after["x"], abs=0.5)
    assert before["width"] / after["width"] == pytest.approx(826 / 582, rel=1e-3)


def test_a_size_that_would_be_refused_is_reported_before_the_start(page: Page) -> None:
    choose(page, picture("small.png", 40, 30))
    pick(page, "size", "pixels")
    page.locator("input[name=width]").fill("800")
    expect(staged(page, "small.png")).to_contain_text("20 times")
    expect(page.locator("#start")).to_be_disabled()
    page.locator("input[name=width]").fill("400")
    expect(staged(page, "small.png")).to_contain_text(shown("400x300"))
    page.locator("input[name=width]").fill("")
    expect(page.locator("#size-fault")).to_contain_text("Give a width")


def test_the_slider_moves_by_keyboard_and_both_pictures_zoom_and_pan_together(page: Page) -> None:
    start(page, picture("one.png", 400, 300))
    card(page, "one.png").locator("[data-action=compare]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#compare")).not_to_have_class(re.compile("is-loading"))
    slider = page.get_by_role("slider")
    slider.focus()
    before = box(page.locator(".divider"))["x"]
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    assert box(page.locator(".divider"))["x"] > before
    clipped = page.locator(".pane.after").evaluate("pane => pane.style.clipPath")
    assert clipped.startswith("inset")

    page.keyboard.press("1")
    expect(page.locator("#zoom-level")).to_have_text("100 %")
    images = [page.locator(f".pane.{side} img") for side in ("before", "after")]
    assert [round(box(image)["width"]) for image in images] == [1600, 1600]
    page.locator("#stage").focus()
    places = [box(image) for image in images]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    moved = [box(image) for image in images]
    for was, now in zip(places, moved, strict=True):
        assert (was["x"] - now["x"], was["y"] - now["y"]) == (64, 64)
    page.keyboard.press("0")
    assert box(images[0])["width"] < 1600
    page.keyboard.press("Escape")
    expect(page.locator("#compare")).to_be_hidden()
    expect(card(page, "one.png").locator("[data-action=compare]")).to_be_focused()


def test_the_pointer_drags_the_line_zooms_by_wheel_and_moves_both_pictures(page: Page) -> None:
    start(page, picture("one.png", 400, 300))
    compare(page, "one.png")
    slider, stage = page.get_by_role("slider"), box(page.locator("#stage"))
    middle = (stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 200, middle[1], steps=3)
    page.mouse.up()
    assert float(slider.input_value()) < 40

    pick(page, "compare-mode", "side")
    images = [page.locator(f".pane.{side} img") for side in ("before", "after")]
    panes = [box(page.locator(f".pane.{side}")) for side in ("before", "after")]
    page.mouse.move(panes[0]["x"] + 100, middle[1])
    page.mouse.wheel(0, -900)
    expect(page.locator("#stage")).to_have_class(re.compile("can-pan"))
    page.mouse.down()
    page.mouse.move(panes[0]["x"] + 60, middle[1] - 30, steps=3)
    page.mouse.up()

    def in_pane(side: int) -> tuple[float, float]:
        shown = box(images[side])
        return shown["x"] - panes[side]["x"], shown["y"] - panes[side]["y"]

    assert in_pane(0) == pytest.approx(in_pane(1), abs=0.5)
    assert in_pane(0)[0] < 0


def add_model(page: Page, **fields: object) -> None:
    """As if the server had one more model, which is the default of its method."""

    def with_one_more(route: Route) -> None:
        answer = route.fetch()
        listed = answer.json()
        listed["models"].append({"installed": True, "default": True, **fields})
        route.fulfill(response=answer, json=listed)

    page.route("**/api/models", with_one_more)


def test_a_long_licence_stays_in_its_panel(page: Page) -> None:
    licence = "Apache-2.0, with parts of two other works, whose names are long"
    add_model(page, name="long", method="esrgan", supported_scales=[4.0], licence=licence)
    page.reload()
    page.locator("#models summary").click()
    pick(page, "model", "long")
    tag = page.locator("#models summary").get_by_text(licence)
    expect(tag).to_be_visible()
    button = box(page.locator("#start"))
    assert box(tag)["x"] + box(tag)["width"] <= button["x"] + button["width"]


def test_the_faces_that_were_found_are_listed_and_drawn_over_the_picture(page: Page) -> None:
    add_model(page, name="GFPGANv1.4", method="face", supported_scales=[1])
    page.add_init_script("""
        const send = XMLHttpRequest.prototype.send;
        XMLHttpRequest.prototype.send = function (body) {
            window.sentFields = Object.fromEntries(body);
            return send.call(this, body);
        };
    """)
    page.reload()
    choose(page, picture("group.png", 64, 48))
    page.get_by_label("Restore faces too").check()
    page.get_by_label("Strength").fill("40")
    page.locator("#start").click()
    found = "2 faces found, 1 restored, 1 too small"
    expect(card(page, "group.png").locator(".card-faces")).to_have_text(found)
    sent = page.evaluate("window.sentFields")
    assert (sent["faces"], sent["face_strength"]) == ("true", "0.4")
    compare(page, "group.png")
    expect(page.locator("#compare-sizes")).to_contain_text(found)
    expect(page.locator(".faces").first).to_be_hidden()
    page.get_by_role("button", name="Faces").click()
    picture_box = box(page.locator(".pane.after img"))
    times = picture_box["width"] / 64
    for side in ("before", "after"):
        drawn = page.locator(f".pane.{side} .faces .restored rect")
        assert box(drawn)["x"] == pytest.approx(picture_box["x"] + 8 * times, abs=4)
        assert box(drawn)["height"] == pytest.approx(20 * times, abs=8)
    expect(page.locator(".pane.after .left-alone title")).to_have_text("Not restored: too small")


def test_a_reload_in_mid_job_finds_the_job_its_picture_and_its_end(
    page: Page, held_jobs: Path
) -> None:
    held_jobs.touch()
    start(page, picture("mine.png"))
    expect(row(page, "mine.png")).to_have_attribute("data-status", RUNS)
    page.reload()
    expect(row(page, "mine.png")).to_have_attribute("data-status", RUNS)
    expect(row(page, "mine.png").locator("img")).to_be_visible()
    held_jobs.unlink()
    expect(card(page, "mine.png")).to_be_visible()
    # The original was kept, so there is something to compare with.
    compare(page, "mine.png")
    expect(page.get_by_role("slider")).to_be_enabled()


def test_a_job_is_cancelled_retried_and_removed(page: Page, held_jobs: Path) -> None:
    held_jobs.touch()
    start(page, picture("mine.png"))
    expect(row(page, "mine.png")).to_have_attribute("data-status", RUNS)
    row(page, "mine.png").get_by_role("button", name="Cancel").click()
    expect(row(page, "mine.png")).to_have_attribute("data-status", "cancelled")
    held_jobs.unlink()
    row(page, "mine.png").get_by_role("button", name="Retry").click()
    expect(card(page, "mine.png")).to_be_visible()
    card(page, "mine.png").get_by_role("button", name="Remove").click()
    expect(page.locator(".card")).to_have_count(0)
    expect(page.get_by_text("The queue is empty")).to_be_visible()


def test_four_pictures_are_uploaded_at_a_time(page: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/upscale/*", hold)
    start(page, *(picture(f"{number}.png") for number in range(6)))
    uploading = page.locator(".row[data-status=uploading]")
    expect(uploading).to_have_count(4)
    expect(page.locator(".row[data-status=waiting]")).to_have_count(2)
    for sent in range(6):
        while len(held) <= sent:
            page.wait_for_timeout(10)
        assert len(held) <= sent + 4
        held[sent].continue_()
    expect(page.locator(".card")).to_have_count(6)


def test_an_upload_waits_as_retry_after_says_and_is_then_sent_again(page: Page) -> None:
    keys: list[str | None] = []

    def refuse_once(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) > 1:
            route.continue_()
            return
        problem = {"detail": "The queue is full.", "code": "queue_full", "retryable": True}
        route.fulfill(status=429, headers={"Retry-After": "1"}, body=json.dumps(problem))

    page.route("**/api/upscale/*", refuse_once)
    start(page, picture("one.png"))
    expect(page.locator("#notice")).to_contain_text("The queue is full. The next upload starts in")
    expect(card(page, "one.png")).to_be_visible()
    expect(page.locator("#notice")).to_be_hidden()
    assert keys[0] is not None
    assert keys == [keys[0]] * 2


def test_a_server_that_does_not_answer_is_reported_and_tried_again(page: Page) -> None:
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator("#glance")).to_contain_text("No connection")
    page.unroute("**/api/**")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#glance")).to_contain_text("Queue empty")


def test_the_header_shows_the_queue_the_workers_and_their_memory(
    page: Page, serve: RunningServe
) -> None:
    job = busy_worker(serve)
    expect(page.locator("#glance")).to_contain_text("1 running, 0 waiting")
    page.locator("#glance summary").click()
    expect(page.locator("#glance")).to_contain_text("Worker 0")
    expect(page.locator("#glance [data-part=memory]")).to_contain_text("MB")
    serve.client.delete(job["status_url"])
    expect(page.locator("#glance")).to_contain_text("Queue empty")


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

    remove_jobs(serve)
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


def test_a_picture_whose_file_was_removed_offers_no_download(
    page: Page, serve: RunningServe
) -> None:
    start(page, picture("old.png"), picture("older.png"))
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#zip")).to_be_visible()
    serve.client.post("/api/cleanup", json={"older_than_s": 0})
    for _ in range(2):
        for name in ("old.png", "older.png"):
            shown_card = card(page, name).filter(has_text="Its file is no longer on the server.")
            expect(shown_card.locator("[data-action=compare]")).to_be_disabled()
            expect(shown_card.locator("[data-action=download]")).to_be_hidden()
        expect(page.locator("#zip")).to_be_hidden()
        page.reload()
    start(page, picture("new.png"))
    compare(page, "new.png")
    expect(page.locator("#next")).to_be_disabled()


def test_a_file_that_can_no_longer_be_read_is_not_blamed_on_the_server(
    page: Page, tmp_path: Path
) -> None:
    file = tmp_path / "moved.png"
    file.write_bytes(picture("moved.png")["buffer"])
    page.locator("#files").set_input_files(file)
    expect(page.locator("#tray-title")).to_have_text("Ready to start")
    file.unlink()
    page.locator("#start").click()
    expect(row(page, "moved.png")).to_have_attribute("data-status", "refused")
    expect(row(page, "moved.png")).to_contain_text("can no longer read the file")
    expect(row(page, "moved.png").get_by_role("button", name="Retry")).to_be_hidden()


def test_a_long_list_asks_for_the_previews_that_can_be_seen(
    browser: Browser, serve: RunningServe
) -> None:
    remove_jobs(serve)
    ids = [serve.submit(output_text="xx")["job_id"] for _ in range(45)]
    serve.ended(ids[-1])
    with opened_page(browser, serve.url) as page:
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        with page.expect_request(re.compile(f"{ids[-1]}.preview")):
            page.reload()
        expect(page.locator(".card")).to_have_count(45)
        oldest = page.locator(".card").last
        with page.expect_request(re.compile(f"{ids[0]}.preview")):
            oldest.scroll_into_view_if_needed()
        assert sum("preview" in address for address in asked) < 40
        # What is no picture has no size, and nothing to compare.
        expect(oldest.locator(".card-size")).to_have_text("2 bytes")
        expect(oldest.locator("[data-action=compare]")).to_be_disabled()


def test_at_200_percent_the_comparison_has_most_of_the_screen(page: Page) -> None:
    start(page, picture("small.png"))
    compare(page, "small.png")
    page.set_viewport_size({"width": 640, "height": 400})
    height = box(page.locator("#stage"))["height"]
    assert height > 200
    assert box(page.locator("#compare-download"))["y"] == pytest.approx(
        box(page.locator(".zoom"))["y"], abs=10
    )


def test_the_hint_speaks_of_a_line_if_there_is_one(page: Page) -> None:
    start(page, picture("small.png"))
    compare(page, "small.png")
    hint = page.locator("#compare-hint")
    expect(hint.locator(".of-slider")).to_be_visible()
    pick(page, "compare-mode", "side")
    expect(hint.locator(".of-slider")).to_be_hidden()
    expect(hint).to_be_visible()


def test_a_long_list_is_laid_out_once(browser: Browser, serve: RunningServe) -> None:
    remove_jobs(serve)
    for _ in range(30):
        job_id = serve.submit()["job_id"]
    serve.ended(job_id)
    with opened_page(browser, serve.url) as page:
        page.add_init_script(
            """window.turns = 0;
            new MutationObserver((changes) => {
              const added = changes.flatMap(({ addedNodes }) => [...addedNodes]);
              if (added.some(({ className }) => className === "card")) window.turns += 1;
            }).observe(document, { childList: true, subtree: true });"""
        )
        page.reload()
        expect(page.locator(".card")).to_have_count(30)
        assert page.evaluate("window.turns") == 1


def test_a_server_that_is_silent_is_reported_and_its_jobs_are_found_again(
    browser: Browser, serve: RunningServe
) -> None:
    remove_jobs(serve)
    with opened_page(browser, serve.url) as page:
        page.clock.install()
        page.reload()
        expect(page.locator("#glance")).to_contain_text("Ready")

        def keep_silent(_route: Route) -> None:
            """Neither an answer nor an end."""

        page.route("**/api/health", keep_silent)
        with page.expect_request("**/api/health"):
            page.clock.run_for(12_000)
        page.clock.run_for(16_000)
        expect(page.locator("#notice")).to_have_text(re.compile("does not answer"))
        page.unroute("**/api/health")
        page.clock.run_for(60_000)
        expect(page.locator("#notice")).to_be_hidden()
