"""Pictures that are chosen, planned and uploaded on the page."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import FilePayload, Page, Route, expect

from chromium import (
    add_model,
    box,
    card,
    choose,
    compare,
    pick,
    picture,
    row,
    shown,
    size_of,
    staged,
    start,
)


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


def test_a_dropped_folder_gives_the_files_that_are_in_it(page: Page, tmp_path: Path) -> None:
    folder = tmp_path / "holiday"
    names = [
        "1.png",
        "2.png",
        "10.png",
        "sea/3.png",
        "sea/deeper/4.png",
        ".hidden/5.png",
        "._1.png",
    ]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(name)["buffer"])
    alone = tmp_path / "alone.png"
    alone.write_bytes(picture("alone")["buffer"])
    # A drop of real files, which a script cannot make.
    browser = page.context.new_cdp_session(page)
    dropped = {"items": [], "files": [str(alone), str(folder)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        browser.send("Input.dispatchDragEvent", {"type": kind, "x": 300, "y": 300, "data": dropped})
    expect(page.locator("#start")).to_have_text("Start 6 pictures")
    expect(page.locator(".staged-name")).to_have_text(
        ["alone.png", "1.png", "2.png", "10.png", "3.png", "4.png"]
    )


def test_each_picture_of_a_long_list_is_shown_anew_a_few_times_only(page: Page) -> None:
    page.evaluate("""() => {
        window.changes = 0;
        const watch = { childList: true, attributes: true, subtree: true };
        new MutationObserver((changes) => { window.changes += changes.length; })
            .observe(document.getElementById("tray-list"), watch);
    }""")
    choose(page, *(picture(f"{number}.png") for number in range(60)))
    assert page.evaluate("window.changes") < 60 * 40


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


def test_a_name_that_is_too_long_keeps_its_beginning_in_every_script(page: Page) -> None:
    choose(page, picture("صورة.png"), picture("sea.png"))
    for name, direction in (("صورة.png", "rtl"), ("sea.png", "ltr")):
        expect(staged(page, name).locator(".staged-name")).to_have_css("direction", direction)
    page.locator("#start").click()
    expect(card(page, "صورة.png").locator(".card-name")).to_have_css("direction", "rtl")
    compare(page, "صورة.png")
    expect(page.locator("#compare-title")).to_have_css("direction", "rtl")


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
