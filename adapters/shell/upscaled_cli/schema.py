"""`upscaled schema`: the protocol as JSON Schema, for people who generate their host's types."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from upscaled_cli import exits

_EXAMPLES = """examples:
  upscaled schema host > host.json       # what a host sends
  upscaled schema worker > worker.json   # what it gets
  upscaled schema errors                 # every code, and whether to try again
  upscaled schema --output schemas/      # all three as files

exit status: 0 done, 1 it could not be written, 2 wrong usage.
"""


def main(argv: Sequence[str]) -> int:
    """Print a schema, or write them all; the exit status."""
    options = parser().parse_args(argv)
    from upscaled_protocol.schema import documents, write

    if options.output is not None:
        write(options.output)
        return exits.OK
    schemas = {name.removesuffix(".json"): schema for name, schema in documents().items()}
    chosen = schemas if options.name is None else schemas[options.name]
    print(json.dumps(chosen, indent=2, ensure_ascii=False))
    return exits.OK


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled schema",
        description="Print the protocol's JSON Schema.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument(
        "name",
        nargs="?",
        choices=("host", "worker", "errors"),
        help="default: one object that holds all three",
    )
    arguments.add_argument("--output", type=Path, metavar="DIR", help="write files instead")
    return arguments
