"""Plays a plan: between a client's driver and a scripted worker."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from conformance.plan import Plan, Row, event_of, outcome_of

# Much more than any step takes. A very busy machine may need even more.
TIMEOUT_S = 30.0

# The client's timeout for a daemon that does not exit at a close. In all other cases it is as long
# as the timeout of a step.
_DEAF_CLOSE_TIMEOUT_S = 1.0

# The client's timeout for a cancel that is not answered, if the case is about that. In all other
# cases it is as long as the timeout of a step.
_BOUND_S = 0.3

_SHOWN_CHARACTERS = 300


class UnmetError(Exception):
    """Raised if the client does something else than expected. The text says what."""


class LeftOutError(Exception):
    """Raised if the client lacks what the case is about. The text names it."""


class Driver:
    """The client's driver, a process: steps go in, reports come out."""

    def __init__(self, command: Sequence[str], timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._reports: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, step: str) -> None:
        """Send a step to the client."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(step.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise UnmetError("the driver ended") from None

    def report(self, deadline: float) -> Row:
        """The next report. Raises `UnmetError` if none comes in time."""
        try:
            report = self._reports.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise UnmetError("nothing came in time") from None
        if report is None:
            raise UnmetError("the driver ended")
        return report

    def kill(self) -> None:
        """End the process at once."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._reports.put(json.loads(line))
        self._reports.put(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(self._timeout_s if kind is None else 0)
        except subprocess.TimeoutExpired:
            self.kill()


class Play:
    """One plan, and what the client has reported of it so far."""

    def __init__(
        self, plan: Plan, driver: Driver, folder: Path, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._plan = plan
        self._driver = driver
        self._script = folder / "script.jsonl"
        self._outcomes: list[Row] = []
        self._events: list[Row] = []

    def run(self) -> None:
        """Play it. Raises `UnmetError` and `LeftOutError`."""
        rows = "".join(json.dumps(row) + "\n" for row in self._plan.worker_rows)
        self._script.write_text(rows, "utf-8")
        worker = Path(__file__).with_name("scripted.py")
        try:
            command = [sys.executable, "-SE", os.fspath(worker), os.fspath(self._script)]
            self._driver.send(json.dumps({"do": "start", "command": command, **self._settings()}))
            for step in self._plan.steps:
                self._wait_for(self._plan.outcomes[: step.outcomes], step.events)
                self._driver.send(step.line)
            self._wait_for(self._plan.outcomes, len(self._plan.events))
            self._compare()
        except UnmetError as error:
            self._kill_what_is_left()
            raise UnmetError(f"{error}{self._fault()}") from None
        if fault := self._fault():
            raise UnmetError(fault)
        self._check_nothing_is_left()

    def _settings(self) -> Row:
        is_deaf = any(row["dir"] in ("deaf", "freeze") for row in self._plan.worker_rows)
        return {
            "close_timeout_s": _DEAF_CLOSE_TIMEOUT_S if is_deaf else self._timeout_s,
            "cancel_grace_s": _BOUND_S if "bound" in self._plan.needs else self._timeout_s,
            "attempts": self._plan.attempts,
            "needs": sorted(self._plan.needs),
        }

    def _wait_for(self, outcomes: list[Row], events: int) -> None:
        deadline = time.monotonic() + self._timeout_s
        missing, _ = compared(outcomes, self._outcomes)
        while missing or len(self._events) < events:
            try:
                report = self._driver.report(deadline)
            except UnmetError as error:
                awaited = missing[0] if missing else self._plan.events[len(self._events)]
                so_far = shortened([*self._outcomes, *self._events[-3:]])
                raise UnmetError(
                    f"expected {shortened(awaited)}, but {error}; so far {so_far}"
                ) from None
            if "event" in report:
                self._events.append(event_of(report["event"]))
            elif report.get("did") == "start":
                raise LeftOutError(", ".join(report["cannot"]))
            else:
                self._outcomes.append(outcome_of(report))
                _, extra = compared(self._plan.outcomes, self._outcomes)
                if extra:
                    raise UnmetError(f"not expected: {shortened(extra)}")
                missing, _ = compared(outcomes, self._outcomes)

    def _compare(self) -> None:
        if self._events != self._plan.events:
            raise UnmetError(
                f"expected the events {shortened(self._plan.events)}, got {shortened(self._events)}"
            )

    def _fault(self) -> str:
        path = self._script.with_suffix(".fault")
        return f"; the worker says: {shortened(path.read_text())}" if path.exists() else ""

    def _check_nothing_is_left(self) -> None:
        for pid in self._pids():
            if _is_alive(pid, self._timeout_s):
                raise UnmetError(f"process {pid} outlived the client's close")

    def _kill_what_is_left(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        """The processes that do not exit by themselves: the worker and its child."""
        path = self._script.with_suffix(".pids")
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def compared(wanted: list[Row], got: list[Row]) -> tuple[list[Row], list[Row]]:
    """The rows of `wanted` that `got` lacks, and the rows that only `got` has. Repeats count."""
    extra = [*got]
    missing = []
    for row in wanted:
        found = next((one for one in extra if _meets(row, one)), None)
        if found is None:
            missing.append(row)
        else:
            extra.remove(found)
    return missing, extra


def _meets(wanted: Row, got: Row) -> bool:
    """True if a report is the wanted one. Of the client's own errors only the code is compared."""
    if "code" not in wanted:
        return got == wanted
    if got.get("settled") != wanted["settled"]:
        return False
    return got.get("cannot") is True or got.get("error", {}).get("code") == wanted["code"]


def _is_alive(pid: int, timeout_s: float) -> bool:
    # A zombie counts as gone: it was killed, and its parent has not waited for it yet.
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.01)
    return True


def shortened(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]} ..."
