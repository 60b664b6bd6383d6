"""200 clients at a time: no job is lost or done twice, and a refused client may come again."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator

import orjson
import psutil
import pytest

from serve_process import ServeProcess, serve_process
from upscaled_bench.http_client import Connection, connections, repeat

CLIENTS = 200
# Answers of a server at its limits.
BUSY = {(429, "queue_full"), (503, "too_many_connections")}


@pytest.fixture
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("data")
    with serve_process(
        folder, UPSCALED_LIMITS_MAX_QUEUE="100", UPSCALED_LOGGING_LEVEL="warning"
    ) as running:
        running.wait_ready()
        yield running


class Crowd:
    """Clients that submit, wait, look, cancel and fetch, in turn."""

    def __init__(self) -> None:
        self.accepted: Counter[str] = Counter()
        self.refused: Counter[tuple[int, str]] = Counter()
        self.unexpected: list[tuple[str, int, bytes]] = []
        self._turns = itertools.count()

    async def act(self, client: Connection) -> None:
        turn = next(self._turns)
        wait = "?wait=60" if turn % 3 else ""
        body = orjson.dumps({"steps": 1, "output_text": str(turn), "label": "crowd"})
        answer = await client.ask("POST", f"/api/upscale/fake{wait}", body)
        told = orjson.loads(answer.body)
        if answer.status not in (200, 202):
            self.refused[answer.status, told["code"]] += 1
            await asyncio.sleep(0.05)
            return
        job_id = told["job_id"]
        self.accepted[job_id] += 1
        if answer.status == 202 and turn % 2:
            await self._ask(client, "POST", f"/api/jobs/{job_id}/cancel", {200, 202})
        await self._ask(client, "GET", f"/api/jobs/{job_id}?wait=60", {200})
        await self._ask(client, "GET", f"/api/results/{job_id}", {200, 404})

    async def _ask(self, client: Connection, method: str, path: str, expected: set[int]) -> None:
        answer = await client.ask(method, path, b"")
        if answer.status not in expected:
            self.unexpected.append((path, answer.status, answer.body))


async def work(port: int, crowd: Crowd, seconds: float) -> None:
    async with connections(port, CLIENTS) as clients:
        await repeat(clients, seconds, crowd.act)


def check(serve: ServeProcess, crowd: Crowd) -> None:
    assert crowd.unexpected == []
    assert set(crowd.refused) <= BUSY
    assert set(crowd.accepted.values()) == {1}
    listed: Counter[str] = Counter()
    before: dict[str, str] = {}
    while True:
        query = {"label": "crowd", "limit": "500", **before}
        page = serve.client.get("/api/jobs", params=query).json()
        for job in page["jobs"]:
            assert job["status"] in ("completed", "cancelled"), job
            listed[job["job_id"]] += 1
        if page.get("next") is None:
            break
        before = {"before": page["next"]}
    assert listed == crowd.accepted
    health = serve.client.get("/api/health").json()
    assert (health["queue_size"], health["in_flight"], health["daemon_restarts"]) == (0, 0, 0)


def test_no_job_of_200_clients_is_lost_or_done_twice(serve: ServeProcess) -> None:
    crowd = Crowd()
    asyncio.run(work(serve.port, crowd, 2.0))
    check(serve, crowd)


@pytest.mark.long
def test_a_minute_of_200_clients_takes_no_memory(serve: ServeProcess) -> None:
    crowd = Crowd()
    asyncio.run(work(serve.port, crowd, 5.0))
    process = psutil.Process(serve.process.pid)
    before = process.memory_info().rss
    asyncio.run(work(serve.port, crowd, 60.0))
    assert process.memory_info().rss < before * 1.1 + 10e6
    check(serve, crowd)
