"""`python -m conformance [--case NAME]... DRIVER...`, run in `protocol/`. Standard library only."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

from conformance.plan import Plan
from conformance.play import TIMEOUT_S, Driver, LeftOutError, Play, UnmetError
from conformance.webplay import LIVE, SCRIPTED, WebPlay

_HERE = Path(__file__).resolve().parent
# Cases that are played at once: each of them waits most of its time for its processes.
_AT_ONCE = 4
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
    parser.add_argument("--case", action="append", metavar="NAME")
    parser.add_argument(
        "--http", action="store_true", help="play the cases over HTTP, with a scripted server"
    )
    parser.add_argument("--url", help="play the cases over HTTP with the server there")
    parser.add_argument("--key", help="that server's key")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=TIMEOUT_S,
        metavar="S",
        help="how long the client may take for a step (default: %(default)g)",
    )
    parser.add_argument("driver", nargs=argparse.REMAINDER, help="the client's driver: a command")
    options = parser.parse_args(argv)
    if not options.driver:
        parser.error("name the client's driver, a command")
    cases = LIVE if options.url else SCRIPTED if options.http else TRANSCRIPTS
    names = options.case or list(cases)
    if unknown := set(names) - set(cases):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    # Not one after the other, because each case has a driver, a worker and a folder of its own.
    play = partial(_play, options=options)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        verdicts = []
        for verdict in pool.map(play, names):
            sys.stdout.write(f"{verdict.sentence}\n")
            verdicts.append(verdict)
    held = sum(verdict.holds for verdict in verdicts)
    sys.stdout.write(f"{held} of {len(names)} cases hold\n")
    return 0 if held == len(names) else 1


class _Verdict(NamedTuple):
    holds: bool
    sentence: str


def _play(name: str, options: argparse.Namespace) -> _Verdict:
    timeout_s: float = options.timeout_s
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            with Driver(options.driver, timeout_s) as driver:
                if options.url:
                    play = WebPlay(LIVE[name], driver, Path(folder), timeout_s)
                    play.run_live(options.url, options.key)
                elif options.http:
                    WebPlay(SCRIPTED[name], driver, Path(folder), timeout_s).run_scripted()
                else:
                    Play(Plan.of(TRANSCRIPTS[name]), driver, Path(folder), timeout_s).run()
        except UnmetError as error:
            return _Verdict(False, f"FAILED {name}: {error}")
        except LeftOutError as error:
            return _Verdict(True, f"left out {name}: the client has no {error}")
    return _Verdict(True, f"ok {name}")


if __name__ == "__main__":
    sys.exit(main())
