"""Cases over HTTP: a client's driver on one side, a scripted server or a real one on the other.

A case is an object: `about`; `steps`, as the driver reads them, each sent after so many `outcomes`
(`after`), progress messages (`stages`) and requests (`requests`); `server`, the rows of a scripted
server, absent if the case is for a real one; `outcomes`; `progress`, the stages in their order;
`files`, the files in the client's folder at the end. `@NAME` in a job stands for a file in that
folder; `in.png` is the input.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from conformance.plan import Row, outcome_of
from conformance.play import Driver, UnmetError, compared, shortened
from conformance.webserver import ScriptedServer

_HERE = Path(__file__).resolve().parent
# By the name of the case.
SCRIPTED = {path.stem: path for path in sorted((_HERE / "http").glob("*.json"))}
LIVE = {path.stem: path for path in sorted((_HERE / "live").glob("*.json"))}

# The client's timeout for a cancel that is not answered, if the case is about that.
_BOUND_S = 0.3


class WebPlay:
    """One case, and what the client has reported of it so far."""

    def __init__(self, case: Path, driver: Driver, folder: Path, timeout_s: float) -> None:
        text = case.read_text("utf-8")
        self._case: Row = json.loads(text.replace('"@', f'"{folder}/'))
        self._driver = driver
        self._folder = folder
        self._timeout_s = timeout_s
        self._outcomes: list[Row] = []
        self._stages: list[str] = []
        self._server: ScriptedServer | None = None

    def run_scripted(self) -> None:
        """Play it against its own server. Raises `UnmetError`."""
        with ScriptedServer(self._case["server"], self._timeout_s) as server:
            self._server = server
            try:
                self._play(server.url, "a key")
            except UnmetError as error:
                raise UnmetError(f"{error}; the server says: {server.fault}") from None
            finally:
                server.shutdown()
            if server.fault or server.left:
                raise UnmetError(server.fault or f"{server.left} did not come")

    def run_live(self, url: str, key: str | None) -> None:
        """Play it against a real server. Raises `UnmetError`."""
        self._play(url, key)

    def _play(self, url: str, key: str | None) -> None:
        wanted = [*self._case["outcomes"], {"did": "close"}]
        (self._folder / "in.png").write_bytes(self._picture())
        start = {
            "do": "start",
            "url": url,
            "key": key,
            "attempts": self._case.get("attempts", 3),
            "close_timeout_s": self._timeout_s,
            "cancel_grace_s": _BOUND_S if self._case.get("is_bound") else self._timeout_s,
        }
        self._driver.send(json.dumps(start))
        for step in [*self._case["steps"], {"do": "close", "after": len(wanted) - 1}]:
            self._wait_for(wanted[: step.get("after", 0)], wanted, step.get("stages", 0))
            if self._server is not None:
                self._server.wait_for_requests(step.get("requests", 0))
            self._driver.send(json.dumps(step))
        self._wait_for(wanted, wanted, 0)
        if "progress" in self._case and self._stages != self._case["progress"]:
            raise UnmetError(f"expected {self._case['progress']}, got the stages {self._stages}")
        self._check_files()

    def _picture(self) -> bytes:
        picture: Any = self._case.get("picture", "picture")
        # A real server reads the picture, so it gets a valid PNG.
        return bytes.fromhex(picture["hex"]) if isinstance(picture, dict) else picture.encode()

    def _wait_for(self, due: list[Row], wanted: list[Row], stages: int) -> None:
        deadline = time.monotonic() + self._timeout_s
        missing, _ = compared(due, self._outcomes)
        while missing or len(self._stages) < stages:
            try:
                report = self._driver.report(deadline)
            except UnmetError as error:
                awaited = missing[0] if missing else f"{stages} stages"
                raise UnmetError(
                    f"expected {shortened(awaited)}, but {error}; so far {self._outcomes}"
                ) from None
            if "event" in report:
                event = report["event"]
                if event.get("type") == "progress":
                    self._stages.append(event.get("stage", ""))
                continue
            self._outcomes.append(outcome_of(report))
            _, extra = compared(wanted, self._outcomes)
            if extra:
                raise UnmetError(f"not expected: {shortened(extra)}")
            missing, _ = compared(due, self._outcomes)

    def _check_files(self) -> None:
        for name, content in self._case.get("files", {}).items():
            path = self._folder / name
            if not path.is_file():
                raise UnmetError(f"{name} was not written")
            text, times = (content, 1) if isinstance(content, str) else content
            if path.read_bytes() != text.encode() * times:
                raise UnmetError(f"{name} is {shortened(path.read_text(errors='replace'))}")
        names = {path.name for path in self._folder.iterdir()}
        if extra := names - {"in.png", *self._case.get("files", {})}:
            raise UnmetError(f"{sorted(extra)} was left in the folder")
