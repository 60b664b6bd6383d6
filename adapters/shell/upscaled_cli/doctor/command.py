"""The command: examines the installation, and reports each finding at once.

Meanwhile a daemon upscales a picture. That takes nearly all of the time, because the daemon loads
every library.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from upscaled_cli import exits
from upscaled_cli.doctor import installation, surroundings, trial, weights
from upscaled_cli.doctor.finding import Finding
from upscaled_cli.session import DAEMON, Session
from upscaled_models.catalog import Catalog, default_model_dir
from upscaled_protocol.optionvalues import given_path

_EXAMPLES = """examples:
  upscaled doctor
  upscaled doctor --json

exit status: 0 nothing needed is missing, 1 something is missing, 2 wrong usage, 130 interrupted.
"""


def main(argv: Sequence[str], daemon: Sequence[str] = DAEMON) -> int:
    """Examine and report; the exit status."""
    options = parser().parse_args(argv)
    report = _Report(as_json=options.json)
    for finding in _examine(options.model_dir, daemon, report):
        report.add(finding)
    return report.end()


def _examine(model_dir: Path, daemon: Sequence[str], report: _Report) -> Iterator[Finding]:
    catalog = Catalog.load()
    own = [path.name for path in catalog.own_files(model_dir)]
    # The session is closed first: after an interruption that ends the daemon, and so the thread.
    with ThreadPoolExecutor(1) as pool, Session([*daemon, *trial.options(model_dir)]) as client:
        trying = pool.submit(trial.run, client, own, report.show)
        yield installation.python()
        yield installation.machine()
        yield from installation.compiled_steps()
        yield from weights.bundled(catalog)
        yield from weights.pulled(catalog, model_dir)
        yield from surroundings.folders(model_dir)
        yield installation.pictures()
        yield from installation.extras()
        yield from weights.flux(catalog, model_dir)
        yield from weights.faces(catalog, model_dir)
        yield from surroundings.imagen()
        yield from surroundings.environment()
        tried = trying.result()
    yield from installation.libraries(tried.has_upscaled, report.show)
    yield from tried.findings()


class _Report:
    """Prints findings, and on a terminal the current activity. Safe in any thread."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._findings: list[Finding] = []
        self._lock = threading.Lock()
        self._has_terminal = sys.stderr.isatty()

    def show(self, activity: str) -> None:
        """Show the current activity, until the next output."""
        if self._has_terminal:
            with self._lock:
                sys.stderr.write(f"\r\x1b[K{activity} ...")
                sys.stderr.flush()

    def add(self, finding: Finding) -> None:
        """Print a finding, or keep it for the JSON at the end."""
        self._findings.append(finding)
        if self._as_json:
            return
        with self._lock:
            self._clear()
            state = finding.state.upper() if finding.state == "problem" else finding.state
            print(f"{state:8} {finding.name:12} {finding.text}")
            if finding.fix:
                print(f"{'':21} -> {finding.fix}")
            sys.stdout.flush()

    def end(self) -> int:
        """Print the count of problems; the exit status."""
        self._clear()
        problems = sum(finding.state == "problem" for finding in self._findings)
        if self._as_json:
            findings = [asdict(finding) for finding in self._findings]
            print(json.dumps({"ok": not problems, "findings": findings}, indent=2))
        else:
            print(f"\n{problems} problem{'s' * (problems != 1)}")
        return exits.FAILED if problems else exits.OK

    def _clear(self) -> None:
        if self._has_terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled doctor",
        description="Report what is installed, what is missing, and how to get it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--json", action="store_true", help="print JSON, for programs")
    arguments.add_argument(
        "--model-dir",
        type=given_path,
        default=default_model_dir(),
        help="default: MODEL_CACHE_DIR or %(default)s",
    )
    return arguments
