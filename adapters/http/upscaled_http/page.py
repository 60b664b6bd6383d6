"""The page: the files of `page/`, each at its own address, `index.html` at `/`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from upscaled_http.headers import PAGE_POLICY

PAGE_FOLDER = Path(__file__).with_name("page")

_HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    # Browsers ask each time, and get a 304: so a new release's page is shown at once.
    "Cache-Control": "no-cache",
}


def add_page(app: FastAPI, folder: Path = PAGE_FOLDER) -> None:
    """Add one route per file. A mount at `/` would match every wrong address and every method."""
    files = StaticFiles(directory=folder, check_dir=False)
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            name = file.relative_to(folder).as_posix()
            path = "/" if name == "index.html" else f"/{name}"
            app.add_route(path, _answer_with(files, name), include_in_schema=False)


def _answer_with(files: StaticFiles, name: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        response = await files.get_response(name, request.scope)
        response.headers.update(_HEADERS)
        return response

    return answer
