"""The Python client's driver for `python -m conformance`: steps on stdin, reports on stdout."""

from __future__ import annotations

import json
import math
import sys
import threading
from typing import Any

from upscaled_cli.channel import Message, RefusedError
from upscaled_cli.client import Client, DaemonGoneError
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES

# It starts no daemon again that was ready, sends no refused job again, and waits for a daemon's
# answer as long as its user does.
LACKS = {"restart", "resend", "deadline", "bound"}


class Driver:
    """One client, and the thread that receives for it."""

    def __init__(self, command: list[str], close_timeout_s: float, attempts: int) -> None:
        self._close_timeout_s = close_timeout_s
        self._client = Client(command, close_timeout_s=close_timeout_s, max_starts=max(1, attempts))
        # The questions that are open, by their request_id.
        self._asked: dict[str, str] = {}
        self._questions = 0
        self._receiver = threading.Thread(target=self._receive_all)
        self._receiver.start()

    def do(self, step: dict[str, Any]) -> None:
        """Do one step."""
        match step["do"]:
            case "submit":
                self._submit(step["job"], step.get("spoil"))
            case "cancel":
                self._client.cancel(step["job_id"])
            case "health" | "trim":
                self._questions += 1
                request_id = str(self._questions)
                self._asked[request_id] = step["do"]
                self._client.send({"type": step["do"], "request_id": request_id})
            case "replay":
                step.pop("do")
                self._client.send({"type": "replay", **step})
            case "kill":
                self._client.kill()
                self._end()
            case "close":
                self._end()

    def _submit(self, job: dict[str, Any], spoil: str | None) -> None:
        job_id = job["job_id"]
        try:
            self._client.submit(**spoilt({"config": {}, **job}, spoil))
        except TypeError:
            # Without a method Python makes no call.
            report({"settled": job_id, "cannot": True})
        except RefusedError as error:
            report({"settled": job_id, "error": {"code": error.code, "error": str(error)}})

    def _end(self) -> None:
        self._client.finish()
        self._receiver.join(self._close_timeout_s)
        if self._receiver.is_alive():
            self._client.kill()
            self._receiver.join()
        self._client.__exit__(None, None, None)
        report({"did": "close"})

    def _receive_all(self) -> None:
        try:
            while True:
                self._take(self._client.receive())
        except DaemonGoneError:
            for job_id in self._client.pending:
                report({"settled": job_id, "gone": True})
            for kind in self._asked.values():
                report({"did": kind, "gone": True})

    def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind in ("result", "error") and message.get("job_id") is not None:
            report({"settled": message["job_id"], kind: message})
        elif kind in ("status", "accepted", "progress"):
            report({"event": message})
        elif kind == "health" and message.get("request_id") in self._asked:
            report({"did": self._asked.pop(message["request_id"]), "answer": message})


def spoilt(job: dict[str, Any], what: str | None) -> dict[str, Any]:
    """The job, with what its step says made unfit to be sent."""
    match what:
        case "id":
            return job | {"job_id": job["job_id"] + "\ud83d"}
        case "text":
            return job | {"config": {"output_text": "\ud83d"}}
        case "size":
            return job | {"config": {"output_text": "x" * DEFAULT_LINE_LIMIT_BYTES}}
        case "path":
            return job | {"config": {"output_path": job["config"]["output_path"] + "\udcff"}}
        case "value":
            return job | {"config": {"step_s": math.nan}}
    return job


def report(row: dict[str, Any]) -> None:
    """Tell the runner."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the runner says until it says no more."""
    # A step may nest deeper than Python's own limit.
    sys.setrecursionlimit(10_000)
    driver: Driver | None = None
    for line in sys.stdin:
        step = json.loads(line)
        if step["do"] == "start" and (lacking := sorted(LACKS & set(step["needs"]))):
            report({"did": "start", "cannot": lacking})
        elif step["do"] == "start":
            driver = Driver(step["command"], step["close_timeout_s"], step["attempts"])
        elif driver is not None:
            driver.do(step)


if __name__ == "__main__":
    main()
