"""`python -m conformance [--case NAME]... DRIVER...`, run in `protocol/`. Standard library only."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from conformance.plan import Plan
from conformance.play import Driver, LeftOutError, Play, UnmetError

_HERE = Path(__file__).resolve().parent
TRANSCRIPTS = {
    path.stem: path
    for folder in (_HERE.parent / "examples", _HERE / "cases")
    for path in sorted(folder.glob("*.jsonl"))
}


def main(argv: Sequence[str] | None = None) -> int:
    """Play all transcripts, or those named. Exit status 0 where the client met them, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m conformance", description="Test a client in any language."
    )
    parser.add_argument("--case", action="append", choices=TRANSCRIPTS, metavar="NAME")
    parser.add_argument("driver", nargs=argparse.REMAINDER, help="the client's driver: a command")
    options = parser.parse_args(argv)
    if not options.driver:
        parser.error("name the client's driver, a command")
    names = options.case or list(TRANSCRIPTS)
    failed = [name for name in names if not _holds(name, options.driver)]
    sys.stdout.write(f"{len(names) - len(failed)} of {len(names)} cases hold\n")
    return 1 if failed else 0


def _holds(name: str, command: list[str]) -> bool:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            with Driver(command) as driver:
                Play(Plan.of(TRANSCRIPTS[name]), driver, Path(folder)).run()
        except UnmetError as error:
            sys.stdout.write(f"FAILED {name}: {error}\n")
            return False
        except LeftOutError as error:
            sys.stdout.write(f"left out {name}: the client has no {error}\n")
            return True
    sys.stdout.write(f"ok {name}\n")
    return True


if __name__ == "__main__":
    sys.exit(main())
