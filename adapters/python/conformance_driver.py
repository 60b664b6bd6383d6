"""The Python client's driver for `python -m conformance`: steps on stdin, reports on stdout."""

from __future__ import annotations

import json
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from upscaled.call import Call
from upscaled.client import ASK_TIMEOUT_S, Client
from upscaled.errors import NoAnswerError, UpscaledError
from upscaled.http.client import HttpClient, ServerOptions
from upscaled.options import ClientOptions
from upscaled.protocol import Progress
from upscaled.result import Result

_EVENTS = ("status", "accepted", "progress")
_LINE_LIMIT_BYTES = 32 * 1024 * 1024

_reporting = threading.Lock()


class Driver:
    """One client, and its open calls."""

    def __init__(self, step: dict[str, Any]) -> None:
        self._client = server_client(step) if "url" in step else daemon_client(step)
        self._calls: dict[str, Call[None]] = {}

    def do(self, step: dict[str, Any]) -> None:
        """Do one step."""
        match step["do"]:
            case "submit":
                self._submit(step["job"], step.get("spoil"), step.get("deadline_s"))
            case "cancel":
                self._calls[step["job_id"]].cancel()
            case "health" | "trim" as kind:
                answer = self._client.ask(kind, step.get("deadline_s", ASK_TIMEOUT_S))
                answer.add_done_callback(lambda done: report_answer(kind, done))
            case "replay":
                self._client.replay(step.get("job_ids"))
            case "kill" | "close" as how:
                getattr(self._client, how)()
                report({"did": "close"})

    @property
    def _on_progress(self) -> Callable[[Progress], None] | None:
        # The client that starts a daemon reports progress by its messages.
        return report_progress if isinstance(self._client, HttpClient) else None

    def _submit(self, job: dict[str, Any], spoil: str | None, deadline_s: float | None) -> None:
        job_id = job["job_id"]
        try:
            call = self._client.submit(
                spoilt(job, spoil), lambda message: Result.of(message, None), self._on_progress
            )
        except UpscaledError as error:
            report({"settled": job_id, "error": dict(error.details)})
            return
        self._calls[job_id] = call
        if deadline_s is not None:
            timer = threading.Timer(deadline_s, call.cancel)
            timer.start()
            call.add_done_callback(lambda _: timer.cancel())
        call.add_done_callback(lambda _: report_end(call))


def daemon_client(step: dict[str, Any]) -> Client:
    """The client that starts a daemon."""
    client = Client(
        ClientOptions(
            command=step["command"],
            attempts=step["attempts"],
            restart_delay_s=0.001,
            close_timeout_s=step["close_timeout_s"],
            cancel_grace_s=step["cancel_grace_s"],
            on_message=report_event,
        )
    )
    client.start()
    return client


def server_client(step: dict[str, Any]) -> HttpClient:
    """The client of a server, in a case over HTTP."""
    return HttpClient(
        ServerOptions(
            url=step["url"],
            key=step["key"],
            attempts=step["attempts"],
            restart_delay_s=0.001,
            close_timeout_s=step["close_timeout_s"],
            cancel_grace_s=step["cancel_grace_s"],
        )
    )


def report_progress(progress: Progress) -> None:
    """A call's own progress."""
    report({"event": {"type": "progress", "stage": progress.stage}})


def report_end(call: Call[None]) -> None:
    """How a call was settled."""
    error = call.exception()
    if error is None:
        report({"settled": call.job_id, "result": call.result().message})
    elif isinstance(error, UpscaledError) and error.details:
        report({"settled": call.job_id, "error": dict(error.details)})
    else:
        report({"settled": call.job_id, "gone": True})


def report_answer(kind: str, answer: Future[dict[str, Any]]) -> None:
    """How a question was answered."""
    error = answer.exception()
    if error is None:
        report({"did": kind, "answer": answer.result()})
    else:
        report({"did": kind, "late" if isinstance(error, NoAnswerError) else "gone": True})


def report_event(message: dict[str, Any]) -> None:
    """A message that the client passes to its user."""
    if message.get("type") in _EVENTS:
        report({"event": message})


def report(row: dict[str, Any]) -> None:
    """Write a report for the runner."""
    with _reporting:
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


SPOILERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "id": lambda job: job | {"job_id": job["job_id"] + "\ud83d"},
    "text": lambda job: job | {"config": {"output_text": "\ud83d"}},
    "size": lambda job: job | {"config": {"output_text": "x" * _LINE_LIMIT_BYTES}},
    "value": lambda job: job | {"config": {"step_s": math.nan}},
    "path": lambda job: job | {"config": {"output_path": job["config"]["output_path"] + "\udcff"}},
}


def spoilt(job: dict[str, Any], what: str | None) -> dict[str, Any]:
    """The job, with what its step says made unfit to be sent."""
    return job if what is None else SPOILERS[what](job)


def main() -> None:
    """Do what the runner says until it says no more."""
    # A step may nest deeper than Python's own limit.
    sys.setrecursionlimit(10_000)
    driver: Driver | None = None
    for line in sys.stdin:
        step = json.loads(line)
        if step["do"] == "start":
            driver = Driver(step)
        elif driver is not None:
            driver.do(step)


if __name__ == "__main__":
    main()
