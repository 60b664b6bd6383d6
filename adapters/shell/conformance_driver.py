"""The Python client's driver for `python -m conformance`: steps on stdin, reports on stdout."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

from upscaled_cli.channel import Message
from upscaled_cli.client import Client, DaemonGoneError


class Driver:
    """One client, and the thread that receives for it."""

    def __init__(self, command: list[str], close_timeout_s: float) -> None:
        self._close_timeout_s = close_timeout_s
        self._client = Client(command, close_timeout_s=close_timeout_s, max_starts=1)
        self._asked = 0
        self._receiver = threading.Thread(target=self._receive_all)
        self._receiver.start()

    def do(self, step: dict[str, Any]) -> None:
        """Do one step."""
        match step["do"]:
            case "submit":
                job = {"config": {}, **step["job"]}
                self._client.submit(**job)
            case "cancel":
                self._client.cancel(step["job_id"])
            case "health" | "trim":
                self._asked += 1
                self._client.send({"type": step["do"]})
            case "replay":
                step.pop("do")
                self._client.send({"type": "replay", **step})
            case "kill":
                self._client.kill()
                self._end()
            case "close":
                self._end()

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
            for _ in range(self._asked):
                report({"did": "ask", "gone": True})

    def _take(self, message: Message) -> None:
        kind = message.get("type")
        if kind in ("result", "error") and message.get("job_id") is not None:
            report({"settled": message["job_id"], kind: message})
        elif kind in ("status", "accepted", "progress"):
            report({"event": message})
        elif kind == "health":
            self._asked -= 1
            report({"did": "ask", "answer": message})


def report(row: dict[str, Any]) -> None:
    """Tell the runner."""
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the runner says until it says no more."""
    driver: Driver | None = None
    for line in sys.stdin:
        step = json.loads(line)
        if step["do"] == "start":
            driver = Driver(step["command"], step["close_timeout_s"])
        elif driver is not None:
            driver.do(step)


if __name__ == "__main__":
    main()
