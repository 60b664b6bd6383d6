"""For `clients`: seconds of round trips through the Python client and through a raw pipe echo, in
turns. Its arguments: `[--asyncio] '{"rounds":…,"trips":…,"echo":[…],"run":[…]}'`.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from upscaled import AsyncUpscaler, Upscaler
from upscaled_bench.pipes import child, seconds

_JOB = {"method": "fake", "config": {"steps": 0}}
_LINE = json.dumps({"job_id": "00000000-0000-0000-0000-000000000000", **_JOB}).encode() + b"\n"

Seconds = dict[str, list[float]]


def main() -> None:
    """Print the seconds, as JSON."""
    order = json.loads(sys.argv[-1])
    times: Seconds = {"echo": [], "client": []}
    with child(order["echo"][1:]) as echo:

        def echo_trip() -> None:
            echo.write(_LINE)
            echo.read_line()

        if "--asyncio" in sys.argv:
            asyncio.run(_measure_asyncio(order, times, echo_trip))
        else:
            _measure(order, times, echo_trip)
    del times["echo"][: order["trips"]], times["client"][: order["trips"]]  # they warm up
    sys.stdout.write(json.dumps(times) + "\n")


def _measure(order: dict[str, Any], times: Seconds, echo_trip: Callable[[], None]) -> None:
    with Upscaler(command=order["run"]) as up:
        up.start()
        for _ in range(order["rounds"] + 1):
            times["echo"] += [seconds(echo_trip) for _ in range(order["trips"])]
            for _ in range(order["trips"]):
                times["client"].append(seconds(lambda: up.submit_job(_JOB).result()))


async def _measure_asyncio(
    order: dict[str, Any], times: Seconds, echo_trip: Callable[[], None]
) -> None:
    async with AsyncUpscaler(command=order["run"]) as up:
        await up.start()
        for _ in range(order["rounds"] + 1):
            times["echo"] += [seconds(echo_trip) for _ in range(order["trips"])]
            for _ in range(order["trips"]):
                times["client"].append(await _async_seconds(lambda: up.submit_job(_JOB)))


async def _async_seconds(action: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await action()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
