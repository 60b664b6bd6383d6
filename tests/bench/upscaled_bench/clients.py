"""A job's round trip from each client through the supervisor, beside a raw pipe echo's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median, quantiles

from upscaled_bench.pipes import ECHO, RUN
from upscaled_bench.table import print_table

_ADAPTERS = Path(__file__).resolve().parents[3] / "adapters"
_PYTHON = ("-m", "upscaled_bench.python_client")
_ROUNDS = 8
_TRIPS = 300


def main() -> None:
    """Measure each client that can be built here, and name the others."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        clients = {
            "Python": [sys.executable, *_PYTHON],
            "Python, asyncio": [sys.executable, *_PYTHON, "--asyncio"],
            "Node": _node(),
            "Go": _go(Path(folder)),
        }
        for name, command in clients.items():
            if command is None:
                print(f"the {name} client is left out: it cannot be built here")
                continue
            seconds = _round_trips(command)
            rows.append(_row(f"{name}: raw pipe echo", seconds["echo"], seconds["echo"]))
            rows.append(_row(f"{name}: supervised", seconds["client"], seconds["echo"]))
    if rows:
        header = ["", "p50", "of its echo", "p99", "of its echo"]
        print_table("no-op jobs from each client: round trip", header, rows)


def _node() -> list[str] | None:
    folder = _ADAPTERS / "node"
    if shutil.which("node") is None or not (folder / "node_modules").is_dir():
        return None
    subprocess.run(["npm", "run", "--silent", "build"], cwd=folder, check=True)
    return ["node", os.fspath(folder / "dist" / "test" / "round_trips.js")]


def _go(folder: Path) -> list[str] | None:
    if shutil.which("go") is None or not _ADAPTERS.is_dir():
        return None
    program = os.fspath(folder / "roundtrips")
    build = ["go", "build", "-o", program, "./internal/roundtrips"]
    subprocess.run(build, cwd=_ADAPTERS / "go", env=os.environ | {"GOPROXY": "off"}, check=True)
    return [program]


def _round_trips(command: list[str]) -> dict[str, list[float]]:
    order = {
        "rounds": _ROUNDS,
        "trips": _TRIPS,
        "echo": [sys.executable, "-c", ECHO],
        "run": [sys.executable, *RUN, "--methods", "fake"],
    }
    done = subprocess.run(
        [*command, json.dumps(order)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds: dict[str, list[float]] = json.loads(done.stdout)
    return seconds


def _row(name: str, seconds: list[float], echo: list[float]) -> list[str]:
    p99, echo_p99 = quantiles(seconds, n=100)[98], quantiles(echo, n=100)[98]
    return [
        name,
        f"{median(seconds) * 1e6:.0f} us",
        f"{median(seconds) / median(echo):.1f}x",
        f"{p99 * 1e6:.0f} us",
        f"{p99 / echo_p99:.1f}x",
    ]
