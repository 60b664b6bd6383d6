"""A client of HTTP/1.1 with as little of its own as can be, and many of them at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

_LIVE = "/api/health/live"
_START_S = 60.0


class Answer(NamedTuple):
    """Status and body."""

    status: int
    body: bytes


class Connection:
    """One connection that is kept, and opened again if the server has closed it. The server answers
    with Content-Length."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Its streams."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**25)
        return self._streams

    async def ask(
        self, method: str, path: str, body: bytes = b"", kind: str = "application/json"
    ) -> Answer:
        """Send a request and read its answer."""
        reader, writer = await self.open()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
        if method == "POST":
            head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"\r\n" + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(lines.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0)
        answer = Answer(int(lines[9:12]), await reader.readexactly(length))
        if b"\r\nconnection: close\r\n" in lines:  # a refusal, before the body was read
            await self.close()
        return answer

    async def close(self) -> None:
        """End it."""
        if self._streams is not None:
            _, writer = self._streams
            self._streams = None
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def connections(port: int, count: int) -> AsyncIterator[list[Connection]]:
    """So many of them, open."""
    opened = [Connection(port) for _ in range(count)]
    try:
        for one in opened:
            await one.open()
        yield opened
    finally:
        for one in opened:
            await one.close()


async def repeat(
    clients: list[Connection], seconds: float, action: Callable[[Connection], Awaitable[None]]
) -> None:
    """Have each client do it again and again, for so long."""
    end = time.monotonic() + seconds

    async def work(client: Connection) -> None:
        while time.monotonic() < end:
            await action(client)

    await asyncio.gather(*map(work, clients))


class Serve:
    """A server in a process of its own. started_s: from its start to its first answer."""

    def __init__(self, data_dir: Path, methods: str, port: int) -> None:
        self.port = port
        command = [sys.executable, "-m", "upscaled_cli", "serve", "--port", str(port)]
        settings = f"workers: {{methods: [{methods}]}}\nstorage: {{min_free_mb: 0}}\n"
        settings += "limits: {max_queue: 1000}\nlogging: {level: warning}\n"
        (data_dir / "serve.yaml").write_text(settings)
        command += ["--config", str(data_dir / "serve.yaml"), "--data-dir", str(data_dir / "data")]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._wait(_LIVE)
        self.started_s = time.perf_counter() - start
        self._wait("/api/health/ready")
        self.ready_s = time.perf_counter() - start

    def _wait(self, path: str) -> None:
        """Until that address answers with 200."""
        end = time.monotonic() + _START_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5):
                    return
            except OSError:
                time.sleep(0.005)
        raise RuntimeError(f"the server does not answer {path}")


@contextmanager
def serve(data_dir: Path, methods: str, port: int) -> Iterator[Serve]:
    """A running server."""
    one = Serve(data_dir, methods, port)
    try:
        yield one
    finally:
        one.process.terminate()
        one.process.wait()
