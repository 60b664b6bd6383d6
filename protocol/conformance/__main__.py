"""`python -m conformance [--case NAME]... DRIVER...`, run in `protocol/`. Standard library only."""

from __future__ import annotations

import argparse
import queue
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from conformance.plan import Plan
from conformance.play import TIMEOUT_S, Driver, LeftOutError, Play, UnmetError
from conformance.webplay import LIVE, SCRIPTED, WebPlay

_HERE = Path(__file__).resolve().parent
# Cases that are played at the same time, each by its own driver. They mostly wait.
_AT_ONCE = 4
TRANSCRIPTS = {
    path.stem: path
    for folder in (_HERE.parent / "examples", _HERE / "cases")
    for path in sorted(folder.glob("*.jsonl"))
}


def main(argv: Sequence[str] | None = None) -> int:
    """Play all cases, or those named. Returns the exit status: 0 if all of them hold."""
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
        help="time limit of the client per step (default: %(default)g)",
    )
    parser.add_argument("driver", nargs=argparse.REMAINDER, help="the client's driver: a command")
    options = parser.parse_args(argv)
    if not options.driver:
        parser.error("name the client's driver, a command")
    cases = LIVE if options.url else SCRIPTED if options.http else TRANSCRIPTS
    names = options.case or list(cases)
    if unknown := set(names) - set(cases):
        parser.error(f"there is no case {', '.join(sorted(unknown))}")
    play = _play_web if cases is not TRANSCRIPTS else _play_all
    counts: Counter[_Outcome] = Counter()
    for verdict in play(names, options):
        sys.stdout.write(f"{verdict.outcome} {verdict.sentence}\n")
        counts[verdict.outcome] += 1
    held, left_out = counts["ok"], counts["left out"]
    note = f", {left_out} left out" if left_out else ""
    sys.stdout.write(f"{held} of {len(names)} cases hold{note}\n")
    return 0 if held + left_out == len(names) else 1


_Outcome = Literal["ok", "left out", "FAILED"]


class _Verdict(NamedTuple):
    outcome: _Outcome
    sentence: str


def _play_all(names: Sequence[str], options: argparse.Namespace) -> Iterator[_Verdict]:
    """Play several at once, because each case has a worker and a folder of its own."""
    idle: queue.SimpleQueue[Driver] = queue.SimpleQueue()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        yield from pool.map(partial(_play, idle=idle, options=options), names)
    while not idle.empty():
        with idle.get():
            pass


def _play(name: str, idle: queue.SimpleQueue[Driver], options: argparse.Namespace) -> _Verdict:
    """Play one case, by an idle driver or a new one. A driver that failed plays no other."""
    try:
        driver = idle.get_nowait()
    except queue.Empty:
        driver = Driver(options.driver, options.timeout_s)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plan = Plan.of(TRANSCRIPTS[name])
        try:
            Play(plan, driver, Path(folder), options.timeout_s).run()
            verdict = _Verdict("ok", name)
        except LeftOutError as error:
            verdict = _Verdict("left out", f"{name}: the client has no {error}")
        except UnmetError as error:
            driver.kill()
            return _Verdict("FAILED", f"{name}: {error}")
    idle.put(driver)
    return verdict


def _play_web(names: Sequence[str], options: argparse.Namespace) -> Iterator[_Verdict]:
    """One after the other, because a driver makes a client for each. A case that fails ends it."""
    left = list(names)
    while left:
        try:
            with Driver(options.driver, options.timeout_s) as driver:
                while left:
                    name = left.pop(0)
                    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                        _play_case(name, driver, Path(folder), options)
                    yield _Verdict("ok", name)
        except UnmetError as error:
            yield _Verdict("FAILED", f"{name}: {error}")


def _play_case(name: str, driver: Driver, folder: Path, options: argparse.Namespace) -> None:
    if options.url:
        play = WebPlay(LIVE[name], driver, folder, options.timeout_s)
        play.run_live(options.url, options.key)
    else:
        WebPlay(SCRIPTED[name], driver, folder, options.timeout_s).run_scripted()


if __name__ == "__main__":
    sys.exit(main())
