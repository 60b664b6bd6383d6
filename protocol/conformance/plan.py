"""What a transcript asks of the two sides: the client's steps, the worker's rows, the outcomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Refusals of what a client sends in good faith. Other refused lines it could not even write.
_REFUSALS = {"queue_full", "shutting_down", "journal_unwritable"}

# What a client must pass on to its user. The other fields it may keep, or not.
_EVENT_FIELDS = ("type", "message", "job_id", "position", "progress", "stage", "done", "total")
_EVENT_TYPES = ("status", "accepted", "progress")
_RESULT_FIELDS = ("output_path", "output_base64", "input_size", "output_size", "model", "warnings")
_ERROR_FIELDS = ("code", "error", "retryable", "cause", "traceback", "attempt")
_HEALTH_FIELDS = ("status", "queue_size", "models_loaded")


@dataclass
class Step:
    """Something for the client to do, once it has reported that many of the plan's rows."""

    do: Row
    outcomes: int
    events: int


@dataclass
class Plan:
    """A transcript, made ready to be played."""

    steps: list[Step] = field(default_factory=list)
    worker_rows: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._in_flight: list[str] = []
        self._asked = 0
        self._closed = False
        self._left_out = False

    @classmethod
    def of(cls, path: Path) -> Plan:
        """The plan of a transcript file."""
        plan = cls()
        _about, *rows = (json.loads(line) for line in path.read_bytes().splitlines())
        for row in rows:
            plan._add(row)
        plan._give_up()
        if not plan._closed:
            plan._step({"do": "close"})
        plan.outcomes.append({"did": "close"})
        return plan

    def _add(self, row: Row) -> None:
        if row["dir"] == "host":
            do = self._host_step(row)
            self._left_out = do is None
            if do is None:
                return  # nothing that a client writes, so the worker does not wait for it
            self._step(do)
        elif row["dir"] == "close":
            self._step({"do": "close" if row["stream"] == "stdin" else "kill"})
            self._closed = True
        elif row["dir"] == "worker":
            message = _message(row)
            if self._left_out and self._answers_nothing(message):
                return
            self._read(message)
        self.worker_rows.append(row)

    def _step(self, do: Row) -> None:
        self.steps.append(Step(do, len(self.outcomes), len(self.events)))

    def _host_step(self, row: Row) -> Row | None:
        refused = row.get("refused")
        if "base64" in row or "end" in row or not row["line"].strip():
            return None
        if refused is not None and refused not in _REFUSALS:
            return None
        message = json.loads(padded(row))
        kind = message.pop("type", "job")
        if kind == "job":
            self._in_flight.append(message["job_id"])
            return {"do": "submit", "job": message}
        if kind == "cancel":
            # Clients have nothing to cancel where a job is not in flight.
            known = message["job_id"] in self._in_flight
            return {"do": "cancel", "job_id": message["job_id"]} if known else None
        if kind in ("health", "trim"):
            self._asked += 1
            return {"do": kind}
        return {"do": "replay", **message} if kind == "replay" else None

    def _answers_nothing(self, message: Row) -> bool:
        """Whether it refuses a line that was left out, by an id that a later job may have."""
        job_id = message.get("job_id")
        return message.get("type") == "error" and job_id not in (None, *self._in_flight)

    def _read(self, message: Row) -> None:
        """Note what the client must make of a line of the worker's."""
        kind = message.get("type")
        if kind in _EVENT_TYPES:
            self.events.append(event_of(message))
        elif kind == "health":
            self._asked -= 1
            self.outcomes.append(outcome_of({"did": "ask", "answer": message}))
        elif kind in ("result", "error") and message.get("job_id") in self._in_flight:
            self._in_flight.remove(message["job_id"])
            self.outcomes.append(outcome_of({"settled": message["job_id"], kind: message}))

    def _give_up(self) -> None:
        """Whatever has no answer in the transcript never gets one."""
        self.outcomes += [{"settled": job_id, "gone": True} for job_id in self._in_flight]
        self.outcomes += [{"did": "ask", "gone": True}] * self._asked


def event_of(message: Row) -> Row:
    """What counts of an event."""
    return _chosen(message, _EVENT_FIELDS)


def outcome_of(report: Row) -> Row:
    """What counts of how a call ended."""
    if "result" in report:
        return {**report, "result": _chosen(report["result"], _RESULT_FIELDS)}
    if "error" in report:
        error = _chosen(report["error"], _ERROR_FIELDS)
        # Absent, it means false.
        return {**report, "error": {"retryable": False} | error}
    if "answer" in report:
        return {**report, "answer": _chosen(report["answer"], _HEALTH_FIELDS)}
    return report


def padded(row: Row) -> str:
    """The row's line, its `@` blown up to the size that `pad` says."""
    line: str = row["line"]
    return line.replace("@", "x" * row["pad"]) if "pad" in row else line


def _message(row: Row) -> Row:
    """The message that a client reads in a worker's row; empty where it is none."""
    if row.get("lost") or "base64" in row:
        return {}
    try:
        message = json.loads(padded(row))
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _chosen(message: Row, names: tuple[str, ...]) -> Row:
    # Null and empty stand for nothing, as absent does; some languages cannot tell these apart.
    return {name: message[name] for name in names if message.get(name) not in (None, "", [])}
