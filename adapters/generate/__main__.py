"""Writes the clients' types: `python adapters/generate [--check]`.

The protocol's types are written from `protocol/schema`, those of the HTTP clients from
`http/openapi.json`. The files are checked in. With `--check` nothing is written, and the exit
status is 1 if one of them is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import go
import python
import typescript
from schemas import ADAPTERS, read_api
from upscaled_protocol.generatedfiles import write_or_check


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files, or check them; the exit status."""
    parser = argparse.ArgumentParser(
        prog="adapters/generate", description="Write the clients' types."
    )
    parser.add_argument("--check", action="store_true", help="write nothing, name stale files")
    check = parser.parse_args(argv).check
    api = read_api()
    texts = {
        "node/src/protocol.ts": typescript.protocol_types(),
        "node/src/http/api.ts": typescript.api_types(api),
        "go/protocol.go": go.protocol_types(),
        "go/http/api.go": go.api_types(api),
        "python/upscaled/protocol.py": python.protocol_types(),
    }
    return write_or_check(ADAPTERS, texts, check=check)


if __name__ == "__main__":
    sys.exit(main())
