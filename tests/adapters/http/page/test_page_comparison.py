"""A result beside its original on the page."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from chromium import add_model, box, card, choose, compare, pick, picture, start


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
