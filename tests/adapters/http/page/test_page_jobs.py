"""The jobs and the server that the page shows."""

from __future__ import annotations

import io
import re
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, Route, expect

from chromium import card, choose, compare, opened_page, picture, row, start
from running_serve import RunningServe

RUNS = re.compile("queued|processing")


def test_the_stream_of_events_is_asked_for_without_the_cache(page: Page) -> None:
    """Firefox's cache holds a request back as long as another tab has the same one open."""
    with page.expect_request("**/api/events") as asked:
        page.reload()
    assert asked.value.all_headers()["cache-control"] == "no-cache"


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


def test_a_picture_that_becomes_a_job_while_the_list_is_read_stays(page: Page) -> None:
    start(page, picture("older.png"))
    expect(card(page, "older.png")).to_be_visible()
    listed = page.request.get(f"{page.url}api/jobs?limit=500").json()
    held: list[Route] = []
    page.route("**/api/jobs?*", lambda route: held.append(route))  # noqa: PLW0108 - Playwright counts its parameters
    with page.expect_request("**/api/jobs?*"):
        page.reload()
    start(page, picture("newer.png"))
    # Its upload has ended. The job's own end is told after the list.
    sent = page.locator(".row, .card", has_text="newer.png")
    expect(sent).not_to_have_attribute("data-status", re.compile("waiting|uploading"))
    held.pop().fulfill(json=listed)
    expect(card(page, "older.png")).to_be_visible()
    expect(card(page, "newer.png")).to_be_visible()


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


def test_only_a_failure_that_may_pass_has_the_advice_to_try_again(
    page: Page, serve: RunningServe
) -> None:
    for code, is_told in (("out_of_memory", True), ("input_unreadable", False)):
        job = serve.submit(error_code=code)
        state = page.locator(".row[data-status=failed] .row-state")
        told = expect(state)
        told.to_contain_text("To try again") if is_told else told.not_to_contain_text("try again")
        serve.client.delete(job["status_url"])
        expect(state).to_have_count(0)


def test_warnings_are_sentences(page: Page) -> None:
    data = io.BytesIO()
    Image.new("RGBA", (64, 48), (200, 90, 30, 128)).save(data, "PNG", dpi=(300, 150))
    choose(page, {"name": "mine.png", "mimeType": "image/png", "buffer": data.getvalue()})
    page.locator("select[name=format]").select_option("jpeg")
    page.locator("#start").click()
    expect(card(page, "mine.png").locator(".card-note")).to_have_text(
        re.compile(r"^The input's pixels .*: no dpi was kept\. [A-Z].*white\S*[^.]*\.$")
    )


def test_a_picture_that_one_page_removes_leaves_the_other(page: Page) -> None:
    start(page, picture("mine.png"))
    expect(card(page, "mine.png")).to_be_visible()
    with page.context.new_page() as other:
        other.goto(page.url)
        card(other, "mine.png").get_by_role("button", name="Remove").click()
        expect(other.locator(".card")).to_have_count(0)
    expect(page.locator(".card")).to_have_count(0)


def test_a_picture_that_is_fetched_has_the_name_of_its_address(
    page: Page, serve: RunningServe
) -> None:
    url = "http://127.0.0.1:9/photos/sea%20view.jpg?size=9"
    serve.submit("/api/upscale/esrgan", image_url=url)
    expect(row(page, "sea view.jpg")).to_be_visible()


def test_the_header_shows_the_queue_the_workers_and_their_memory(
    page: Page, serve: RunningServe
) -> None:
    # A job of another client runs until it is cancelled.
    job = serve.submit(steps=4, at_step=2, hang=True)
    expect(page.locator("#glance")).to_contain_text("1 running, 0 waiting")
    page.locator("#glance summary").click()
    expect(page.locator("#glance")).to_contain_text("Worker 0")
    expect(page.locator("#glance [data-part=memory]")).to_contain_text("MB")
    serve.client.delete(job["status_url"])
    expect(page.locator("#glance")).to_contain_text("Queue empty")


def test_a_server_that_does_not_answer_is_reported_and_tried_again(page: Page) -> None:
    page.route("**/api/**", lambda route: route.abort())
    page.reload()
    expect(page.locator("#notice")).to_contain_text("does not answer")
    expect(page.locator("#glance")).to_contain_text("No connection")
    page.unroute("**/api/**")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#glance")).to_contain_text("Queue empty")


def test_a_server_that_is_silent_is_reported_and_its_jobs_are_found_again(
    browser: Browser, serve: RunningServe
) -> None:
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


def test_a_long_list_asks_for_the_previews_that_can_be_seen(
    browser: Browser, serve: RunningServe
) -> None:
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


def test_a_long_list_is_laid_out_once(browser: Browser, serve: RunningServe) -> None:
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
