"""`upscaled schema`: prints the protocol as JSON Schema and the HTTP API as OpenAPI, from which
types can be generated."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from upscaled_cli import exits
from upscaled_protocol.optionvalues import given_path

_OF_HTTP = {"http": "openapi.json", "postman": "postman.json"}

_EXAMPLES = """examples:
  upscaled schema host > host.json       # what a host sends
  upscaled schema worker > worker.json   # what a host receives
  upscaled schema errors                 # every code, and if a retry may help
  upscaled schema --output schemas/      # the first three as files
  upscaled schema http > openapi.json    # the API of `upscaled serve`
  upscaled schema postman > api.json     # the same as a Postman collection

exit status: 0 done, 1 it could not be written, 2 wrong usage.
"""


def main(argv: Sequence[str]) -> int:
    """Print a schema, or write them all; the exit status."""
    options = parser().parse_args(argv)
    from upscaled_protocol.generatedfiles import write_or_check
    from upscaled_protocol.schema import documents, texts

    if options.output is not None:
        return write_or_check(options.output, texts(), check=False)
    if options.name in _OF_HTTP:
        return _print_http(options.name)
    schemas = {name.removesuffix(".json"): schema for name, schema in documents().items()}
    chosen = schemas if options.name is None else schemas[options.name]
    print(json.dumps(chosen, indent=2, ensure_ascii=False))
    return exits.OK


def _print_http(name: str) -> int:
    try:
        from upscaled_http.schema import texts
    except ImportError as error:
        sys.stderr.write(
            f"`upscaled schema {name}` needs {error.name}, which is not installed: "
            "pip install 'upscaled[http]'\n"
        )
        return exits.FAILED
    print(texts()[_OF_HTTP[name]], end="")
    return exits.OK


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled schema",
        description="Print the protocol's JSON Schema, or the HTTP API's OpenAPI document.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "name",
        nargs="?",
        choices=("host", "worker", "errors", *_OF_HTTP),
        help="default: one object with the first three",
    )
    arguments.add_argument("--output", type=given_path, metavar="DIR", help="write files instead")
    return arguments
