"""A transcript as a plan: the client's steps, the worker's rows, the expected outcomes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

# Refusals of jobs that a client can send. It does not write other refused lines.
_REFUSALS = {"queue_full", "shutting_down", "journal_unwritable"}

# The fields that a client must report. Others are optional.
_EVENT_FIELDS = ("type", "message", "job_id", "position", "progress", "stage", "done", "total")
_EVENT_TYPES = ("status", "accepted", "progress")
_RESULT_FIELDS = (
    "output_path",
    "output_base64",
    "input_size",
    "output_size",
    "model",
    "faces",
    "warnings",
)
_ERROR_FIELDS = ("code", "error", "retryable", "cause", "traceback", "attempt")
_HEALTH_FIELDS = ("status", "queue_size", "models_loaded")

# Fields of a row that go to the client's driver with the line.
_STEP_FIELDS = ("deadline_s", "spoil")

# The byte 0xFF of a file name in JSON (Python's surrogateescape).
_SPOILT_BYTE = "\udcff"


@dataclass
class Step:
    """One step of the client. It is sent once the client has reported so many outcomes and events.

    `line` is the step as the driver reads it.
    """

    line: str
    outcomes: int
    events: int


@dataclass
class Plan:
    """A transcript, ready to be played.

    `attempts` is the number of daemons in a row that may fail before the client gives up; with 0
    it starts only one. `needs` names what a client may lack: see *The driver* in README.md.
    """

    attempts: int = 0
    steps: list[Step] = field(default_factory=list)
    worker_rows: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    needs: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._in_flight: list[str] = []
        self._accepted: set[str] = set()
        self._waiting: set[str] = set()
        # Questions without an answer: their kind, and their request_id if they have one.
        self._asked: list[tuple[str, str | None]] = []
        self._is_ready = False
        self._closed = False
        self._left_out = False

    @classmethod
    def of(cls, path: Path) -> Plan:
        """The plan of a transcript file."""
        about, *rows = (json.loads(line) for line in path.read_bytes().splitlines())
        plan = cls(attempts=about.get("attempts", 0))
        for row in rows:
            plan._add(row)
        plan._give_up(plan._in_flight)
        if not plan._closed:
            plan._step({"do": "close"})
        plan.outcomes.append({"did": "close"})
        return plan

    def _add(self, row: Row) -> None:
        match row["dir"]:
            case "host":
                self._left_out = not self._write(row)
                if self._left_out:
                    return  # no client writes it, so the worker does not wait for it
            case "refuse":
                self._refuse(row)
                return
            case "cancel":
                self._cancel_waiting(row)
                return
            case "settled":
                self._settle_unanswered(row)
                return
            case "start":
                self.needs.add("restart" if self._is_ready else "second_start")
                self._is_ready = False
                self._give_up([one for one in self._in_flight if one in self._accepted])
            case "close":
                self._step({"do": "close" if row["stream"] == "stdin" else "kill"})
                self._closed = True
            case "worker":
                if row.get("lost"):
                    self._lose(row)
                message = _message(row)
                if self._left_out and self._answers_nothing(message):
                    return
                self._read(message)
        self.worker_rows.append(row)

    def _step(self, do: Row) -> None:
        self.steps.append(Step(json.dumps(do), len(self.outcomes), len(self.events)))

    def _write(self, row: Row) -> bool:
        """Have the client write a row's line. False if no client writes such a line."""
        refused = row.get("refused")
        if "base64" in row or "end" in row or not row["line"].strip():
            return False
        if refused is not None and refused not in _REFUSALS:
            return False
        message = json.loads(padded(row))
        asked = {name: row[name] for name in _STEP_FIELDS if name in row}
        if "deadline_s" in row:
            self.needs.add("deadline")
        match message.pop("type", "job"):
            case "job":
                return self._submit(message, asked)
            case "cancel":
                # A client does not cancel a job that is not in flight.
                if message["job_id"] not in self._in_flight:
                    return False
                if not row.get("unasked"):
                    self._step({"do": "cancel", "job_id": message["job_id"]})
            case "health" | "trim" as kind:
                self._step({"do": kind, **asked})
                if "deadline_s" in row:
                    self.outcomes.append({"did": kind, "late": True})
                else:
                    self._asked.append((kind, message.get("request_id")))
            case "replay":
                self._step({"do": "replay", **message})
            case _:
                return False
        return True

    def _submit(self, job: Row, asked: Row) -> bool:
        if job["job_id"] in self._in_flight:
            # The client sends it again by itself, because it was not accepted the first time.
            self._waiting.discard(job["job_id"])
            return True
        self._in_flight.append(job["job_id"])
        # The driver adds the byte that is not text to the name in the step.
        if asked.get("spoil") == "path":
            job["config"]["output_path"] = job["config"]["output_path"].removesuffix(_SPOILT_BYTE)
        self._step({"do": "submit", "job": job, **asked})
        return True

    def _refuse(self, row: Row) -> None:
        """Have the client submit a job that it must refuse by itself."""
        job_id = json.loads(row["line"])["job_id"]
        asked = {name: row[name] for name in _STEP_FIELDS if name in row}
        step = json.dumps({"do": "submit", "job": "@", **asked}).replace('"@"', padded(row), 1)
        self.steps.append(Step(step, len(self.outcomes), len(self.events)))
        self.outcomes.append({"settled": job_id, "code": row["code"]})

    def _cancel_waiting(self, row: Row) -> None:
        """Have the client cancel a job that the daemon does not have. It writes nothing."""
        job_id = row["job_id"]
        self._step({"do": "cancel", "job_id": job_id})
        self._in_flight.remove(job_id)
        self.outcomes.append({"settled": job_id, "code": "cancelled"})

    def _settle_unanswered(self, row: Row) -> None:
        """Expect the client to end a call by itself, because the daemon does not."""
        job_id = row["job_id"]
        self._in_flight.remove(job_id)
        if "code" in row:
            self.needs.add("bound")
            self.outcomes.append({"settled": job_id, "code": row["code"]})
        else:
            self.outcomes.append({"settled": job_id, "gone": True})

    def _answers_nothing(self, message: Row) -> bool:
        """True if it refuses a line that was left out, with an id that a later job may have."""
        job_id = message.get("job_id")
        return message.get("type") == "error" and job_id not in (None, *self._in_flight)

    def _read(self, message: Row) -> None:
        """Record what a line of the worker must lead to."""
        kind, job_id = message.get("type"), message.get("job_id")
        if kind in _EVENT_TYPES:
            self.events.append(event_of(message))
            self._is_ready = self._is_ready or message.get("message") == "ready"
            if kind == "accepted":
                self._accepted.add(str(job_id))
        elif kind == "health":
            self._answer(message)
        elif kind in ("result", "error") and job_id in self._in_flight:
            others = set(self._in_flight) - self._waiting - {job_id}
            if message.get("code") == "queue_full" and others:
                self.needs.add("resend")
                self._waiting.add(str(job_id))
                return
            self._in_flight.remove(str(job_id))
            self._accepted.discard(str(job_id))
            self.outcomes.append(outcome_of({"settled": job_id, kind: message}))

    def _lose(self, row: Row) -> None:
        """Record what the first bytes of a line that is too long must lead to."""
        names, message = _head(row)
        job_id = message.get("job_id")
        is_end = message.get("type") in ("result", "error")
        if is_end and names == ["type", "job_id"] and job_id in self._in_flight:
            self._in_flight.remove(job_id)
            self._accepted.discard(job_id)
            self.outcomes.append({"settled": job_id, "code": "line_too_long"})

    def _answer(self, message: Row) -> None:
        request_id = message.get("request_id")
        for question in self._asked:
            if question[1] == request_id:
                self._asked.remove(question)
                self.outcomes.append(outcome_of({"did": question[0], "answer": message}))
                return

    def _give_up(self, job_ids: list[str]) -> None:
        """End these jobs and all open questions without an answer."""
        self.outcomes += [{"settled": job_id, "gone": True} for job_id in job_ids]
        self._in_flight = [one for one in self._in_flight if one not in job_ids]
        self._accepted -= set(job_ids)
        self.outcomes += [{"did": kind, "gone": True} for kind, _request_id in self._asked]
        self._asked = []


def event_of(message: Row) -> Row:
    """The fields of an event that are compared."""
    return _chosen(message, _EVENT_FIELDS)


def outcome_of(report: Row) -> Row:
    """The fields of a call's end that are compared."""
    if "result" in report:
        return {**report, "result": _chosen(report["result"], _RESULT_FIELDS)}
    if "error" in report:
        error = _chosen(report["error"], _ERROR_FIELDS)
        # An absent field means false.
        return {**report, "error": {"retryable": False} | error}
    if "answer" in report:
        return {**report, "answer": _chosen(report["answer"], _HEALTH_FIELDS)}
    return report


def padded(row: Row) -> str:
    """The row's line, with its `@` repeated `pad` times, or replaced by `nest` brackets."""
    line: str = row["line"]
    if "nest" in row:
        return line.replace('"@"', "[" * row["nest"] + "]" * row["nest"])
    return line.replace("@", "x" * row["pad"]) if "pad" in row else line


def _message(row: Row) -> Row:
    """The message in a worker's row; empty if the client can read none."""
    if row.get("lost") or "base64" in row:
        return {}
    return _parsed(padded(row))


def _head(row: Row) -> tuple[list[str], Row]:
    """The first names of a worker's line, and its message without the padding."""
    message = _parsed(row["line"])
    return list(message)[:2], message


def _parsed(line: str) -> Row:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _chosen(message: Row, names: tuple[str, ...]) -> Row:
    # Null and empty mean the same as absent, because some languages do not distinguish them.
    return {name: message[name] for name in names if message.get(name) not in (None, "", [])}
