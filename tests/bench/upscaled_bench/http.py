"""What HTTP costs beside the pipe: a picture, a job that does nothing, 200 clients, memory."""

from __future__ import annotations

import asyncio
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median, quantiles

import orjson
import psutil
import uvloop

from upscaled import AsyncUpscaler
from upscaled_bench.http_client import Connection, Serve, connections, repeat, serve
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import RUN, child
from upscaled_bench.table import print_table

_CLIENTS = 200
_PICTURES = 5
_TRIPS = 300
_ROUNDS = 4
_RATE_S = 8.0
_MEMORY_S = 60.0
_FORM = "multipart/form-data; boundary=x"
_NO_OP = b'{"steps":0}'
_NO_OP_PATH = "/api/upscale/fake?wait=60"

Row = list[str]


def main() -> None:
    """Measure in turns, so that the machine's mood is the same for both."""
    with tempfile.TemporaryDirectory() as name, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        with serve(Path(name), "esrgan, fake", port) as server:
            rows = [_start_row(server)]
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                rows += runner.run(_measure(server, Path(name)))
    print_table("upscaled serve, beside the pipe", ["", "HTTP", "beside", "ratio", "goal"], rows)


async def _measure(server: Serve, folder: Path) -> list[Row]:
    rows = [await _picture_row(server, folder)]
    argv = [RUN[0], RUN[1], "--methods", "fake", "--journal", str(folder / "pipe.db")]
    async with AsyncUpscaler(command=[sys.executable, *argv]) as pipe:
        await pipe.start()
        rows += [await _trip_row(server, pipe), await _rate_row(server, pipe)]
    return [*rows, await _live_row(server), await _memory_row(server)]


def _start_row(server: Serve) -> Row:
    return [
        "first answer after the start, beside a worker that is ready",
        *(f"{server.started_s:.2f} s", f"{server.ready_s:.2f} s"),
        *(f"{server.started_s / server.ready_s:.2f}", "< 1"),
    ]


def _ratio_row(title: str, ours: float, theirs: float, unit: str, goal: str) -> Row:
    return [title, f"{ours:,.4g} {unit}", f"{theirs:,.4g} {unit}", f"{ours / theirs:.2f}", goal]


async def _picture_row(server: Serve, folder: Path) -> Row:
    picture = write_photograph(folder / "in.png", 512, 512)
    data = picture.read_bytes()
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    form = head + data + b"\r\n--x--\r\n"
    output = folder / "out.png"
    config = {"image_path": str(picture), "output_path": str(output)}
    over_http, over_pipe = [], []
    with child([*RUN, "--methods", "esrgan"]) as pipe:
        pipe.wait_ready()
        async with connections(server.port, 1) as (client,):
            for number in range(_PICTURES + 1):
                start = time.perf_counter()
                ended = await client.ask("POST", "/api/upscale/esrgan?wait=60", form, _FORM)
                result = await client.ask("GET", orjson.loads(ended.body)["result_url"])
                over_http.append(time.perf_counter() - start)
                start = time.perf_counter()
                picture.write_bytes(data)
                job = {"job_id": str(number), "method": "esrgan", "config": config}
                pipe.write(orjson.dumps(job) + b"\n")
                pipe.wait_result(str(number))
                same = output.read_bytes()
                over_pipe.append(time.perf_counter() - start)
                assert result.body == same
    title = "512 x 512 to 2048 x 2048: upload, wait, download"
    return _ratio_row(title, median(over_http[1:]), median(over_pipe[1:]), "s", "<= 1.05")


async def _no_op(client: Connection) -> None:
    answer = await client.ask("POST", _NO_OP_PATH, _NO_OP)
    assert answer.status == 200, answer


async def _trip_row(server: Serve, pipe: AsyncUpscaler) -> Row:
    over_http: list[float] = []
    over_pipe: list[float] = []
    async with connections(server.port, 1) as (client,):
        for number in range(_ROUNDS):
            http_trips = await _timed(lambda: _no_op(client))
            pipe_trips = await _timed(lambda: _pipe_job(pipe))
            if number:  # the first round warms up
                over_http += http_trips
                over_pipe += pipe_trips
    ours, theirs = median(over_http) * 1e3, median(over_pipe) * 1e3
    return _ratio_row("a job that does nothing, one client, p50", ours, theirs, "ms", "<= 3")


async def _timed(action: Callable[[], Awaitable[None]]) -> list[float]:
    times = []
    for _ in range(_TRIPS):
        start = time.perf_counter()
        await action()
        times.append(time.perf_counter() - start)
    return times


async def _pipe_job(pipe: AsyncUpscaler) -> None:
    await pipe.submit_job({"method": "fake", "config": {"steps": 0}})


async def _rate_row(server: Serve, pipe: AsyncUpscaler) -> Row:
    done = {"http": 0, "pipe": 0}

    async def over_http(client: Connection) -> None:
        await _no_op(client)
        done["http"] += 1

    async def over_pipe() -> None:
        end = time.monotonic() + _RATE_S
        while time.monotonic() < end:
            await _pipe_job(pipe)
            done["pipe"] += 1

    async with connections(server.port, _CLIENTS) as clients:
        await repeat(clients, _RATE_S, over_http)
    await asyncio.gather(*(over_pipe() for _ in range(_CLIENTS)))
    ours, theirs = done["http"] / _RATE_S, done["pipe"] / _RATE_S
    return _ratio_row("jobs per second, 200 at once", ours, theirs, "/s", ">= 0.5")


async def _live_row(server: Serve) -> Row:
    """While 200 clients have jobs done, beside 200 that ask for nothing else."""

    async def probe(client: Connection, times: list[float]) -> None:
        start = time.perf_counter()
        await client.ask("GET", "/api/health/live")
        times.append(time.perf_counter() - start)

    busy: list[float] = []
    alone: list[float] = []
    async with connections(server.port, _CLIENTS + 1) as (first, *clients):
        await asyncio.gather(
            repeat(clients, _RATE_S, _no_op),
            repeat([first], _RATE_S, lambda client: probe(client, busy)),
        )
        await repeat(clients, _RATE_S, lambda client: probe(client, alone))
    ours, theirs = (quantiles(times, n=100)[98] * 1e3 for times in (busy, alone))
    return _ratio_row("`live`, p99, beside 200 clients' jobs", ours, theirs, "ms", "<= 3")


async def _memory_row(server: Serve) -> Row:
    """Of the server alone, without its daemon."""
    process = psutil.Process(server.process.pid)
    before = process.memory_info().rss / 1e6
    async with connections(server.port, _CLIENTS) as clients:
        await repeat(clients, _MEMORY_S, _no_op)
    after = process.memory_info().rss / 1e6
    return _ratio_row("memory after 200 clients for a minute", after, before, "MB", "<= 1.1")
