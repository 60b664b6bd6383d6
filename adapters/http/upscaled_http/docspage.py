"""The page of `/docs`: Swagger UI, with files of our own server alone.

Its addresses are relative, so it works behind a proxy that serves this server below a path.
"""

from __future__ import annotations

from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

_FILES = Path(fastapi_offline.__file__).with_name("static")


def add_docs(app: FastAPI) -> None:
    """Add the page and its files."""
    app.mount("/docs/static", StaticFiles(directory=_FILES))

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/static/swagger-ui-bundle.js",
            swagger_css_url="docs/static/swagger-ui.css",
            swagger_favicon_url="docs/static/favicon.png",
        )
