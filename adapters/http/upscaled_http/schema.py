"""The OpenAPI document, and the Postman collection made from it, for people who write clients.

`python -m upscaled_http.schema` writes `openapi.json` and `postman.json` into `adapters/http`, or
into the given folder. With `--check` it writes nothing and names stale files. The types of the Node
and the Go client are generated from `openapi.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_http.postman import collection
from upscaled_http.service import Service
from upscaled_protocol.generatedfiles import write_or_check

# `adapters/http` in a checkout.
_FOLDER = Path(__file__).resolve().parents[1]


def document() -> dict[str, Any]:
    """The OpenAPI document of a server with the default settings."""
    settings = Settings()
    # A service that is not started opens no file and starts no daemon.
    return create_app(settings, Service(settings)).openapi()


def texts() -> dict[str, str]:
    """Each file's content by the file's name."""
    openapi = document()
    contents = {"openapi.json": openapi, "postman.json": collection(openapi)}
    return {
        name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in contents.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m upscaled_http.schema",
        description="Write the OpenAPI document and the Postman collection.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=_FOLDER)
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    options = parser.parse_args(argv)
    return write_or_check(options.folder, texts(), check=options.check)


if __name__ == "__main__":
    sys.exit(main())
