"""Makes docs/page.jpg: the page with a photograph that it has enlarged, and one to be started.

python tests/support/page_picture.py OUT.jpg
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import FilePayload, expect

from chromium import card, choose, opened_page, pick, running_chromium, start
from running_serve import running_serve

_PHOTOGRAPH = Path(__file__).parents[2] / "examples" / "astronaut.jpg"
_VIEWPORT = {"width": 1280, "height": 860}
_QUALITY = 88


def main() -> None:
    """Write the picture."""
    data = _PHOTOGRAPH.read_bytes()
    photograph: FilePayload = {"name": "astronaut.jpg", "mimeType": "image/jpeg", "buffer": data}
    with (
        tempfile.TemporaryDirectory() as folder,
        running_serve(Path(folder), workers={"methods": ("esrgan",)}) as serve,
        running_chromium() as browser,
        opened_page(browser, serve.url, viewport=_VIEWPORT) as page,
    ):
        start(page, photograph)
        expect(card(page, "astronaut.jpg")).to_be_visible()
        choose(page, {**photograph, "name": "portrait-for-print.jpg"})
        pick(page, "size", "print")
        page.locator("select[name=paper]").select_option("A5")
        page.get_by_label("Cut to the exact size").check()
        expect(page.locator("#glance")).to_contain_text("Queue empty")
        page.screenshot(path=sys.argv[1], type="jpeg", quality=_QUALITY)


if __name__ == "__main__":
    main()
