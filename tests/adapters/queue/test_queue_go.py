"""The Go client of a queue: its messages are Celery's, and real machines run them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from golang import needs_go, run
from queue_fleet import Fleet, Job, RedisServer, needs_redis, running_fleet
from upscaled_queue.record import connect
from waiting import TIMEOUT_S

# The first build compiles the standard library for the race detector.
pytestmark = [needs_redis, needs_go, pytest.mark.timeout(600)]

Message = dict[str, Any]
Process = subprocess.Popen[str]
# What differs from message to message, or is for logs alone.
VOLATILE = {"given_at", "origin", "argsrepr", "id", "root_id"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/queue, built."""
    program = tmp_path_factory.mktemp("go") / "queue"
    run("go", "build", "-o", program, "./examples/queue")
    return program


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Without machines."""
    with running_fleet("redis", tmp_path) as running:
        yield running


def start(client: Path, url: str, *jobs: Job, options: Sequence[str] = ()) -> Process:
    """Have it give these jobs and wait for their ends."""
    with tempfile.TemporaryFile("w+") as lines:
        lines.write("".join(json.dumps(job) + "\n" for job in jobs))
        lines.seek(0)
        return subprocess.Popen(
            [str(client), "-timeout", f"{TIMEOUT_S}s", *options],
            stdin=lines,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "UPSCALED_QUEUE_URL": url},
        )


def messages_of(process: Process, count: int) -> list[Message]:
    """The next lines that it prints."""
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def failure_of(process: Process) -> str:
    """Wait until it ends with a failure: what it wrote to stderr."""
    _, text = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 1, text
    return text


def wait_success(process: Process) -> None:
    """Wait until it ends without one."""
    _, text = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, text


def waiting(fleet: Fleet) -> dict[str, list[Message]]:
    """The messages of each list, the first to be taken first."""
    redis = fleet.records.redis
    lists = sorted(redis.scan_iter("fake*"))
    return {one: [json.loads(text) for text in redis.lrange(one, 0, -1)[::-1]] for one in lists}


def comparable(message: Message) -> Message:
    """Without what differs from message to message, and with its body read."""
    headers = {name: one for name, one in message["headers"].items() if name not in VOLATILE}
    properties = {
        name: one
        for name, one in message["properties"].items()
        if name not in {"delivery_tag", "correlation_id", "reply_to", "argsrepr"}
    }
    (job,), *rest = json.loads(base64.b64decode(message["body"]))
    body = [{**job, "job_id": "", "config": job["config"]["steps"]}, rest]
    return {**message, "headers": headers, "properties": properties, "body": body}


def test_a_message_from_go_is_the_one_that_celery_writes(client: Path, fleet: Fleet) -> None:
    more = {"priority": 2, "webhook_url": "https://backend.example/hook?token=a&b=<c>"}
    jobs = {name: {**fleet.job(name, steps=1), **more} for name in ("celerys", "gos")}
    fleet.submit(jobs["celerys"])
    process = start(client, fleet.url, jobs["gos"])
    assert messages_of(process, 1) == [{"type": "queued", "job_id": "gos"}]
    process.terminate()
    assert "job gos has no end yet" in failure_of(process)
    ((celerys, gos),) = waiting(fleet).values()
    assert comparable(gos) == comparable(celerys)
    for name, message in {"celerys": celerys, "gos": gos}.items():
        headers, properties = message["headers"], message["properties"]
        assert {headers["id"], headers["root_id"], properties["correlation_id"]} == {name}
        assert headers["given_at"] == pytest.approx(celerys["headers"]["given_at"], abs=TIMEOUT_S)


def test_jobs_from_go_run_by_priority_and_each_has_one_result(client: Path, fleet: Fleet) -> None:
    jobs = [
        {**fleet.job(job_id), "priority": priority}
        for job_id, priority in [("low", -2), ("default", 0), ("urgent", 9), ("high", 1)]
    ]
    process = start(client, fleet.url, *jobs, jobs[0])
    messages_of(process, 5)
    assert sum(len(one) for one in waiting(fleet).values()) == 4
    fleet.start_machine("--slots", "1")
    ends = messages_of(process, 5)
    assert [end["job_id"] for end in ends] == ["low", "default", "urgent", "high", "low"]
    wait_success(process)
    assert [end["job_id"] for end in fleet.ends()] == ["urgent", "high", "default", "low"]
    fleet.check_each_has_one_result(job["job_id"] for job in jobs)
    # A job that has ended does not run again; one that fails has the daemon's error.
    wrong = fleet.job("wrong", error_code="input_not_found")
    process = start(client, fleet.url, jobs[0], wrong)
    *_, again, failed = messages_of(process, 4)
    assert again["job_id"] == "low"
    assert (failed["job_id"], failed["code"]) == ("wrong", "input_not_found")
    wait_success(process)
    assert fleet.starts_of("low") == 1


def test_go_cancels_a_job_that_runs_and_one_that_waits(client: Path, fleet: Fleet) -> None:
    fleet.start_machine("--slots", "1")
    ids = ["runs", "waits"]
    process = start(client, fleet.url, *(fleet.job(job_id, hang=True) for job_id in ids))
    fleet.wait_running("runs")
    for job_id in reversed(ids):
        wait_success(start(client, fleet.url, options=["-cancel", job_id]))
    *_, runs, waits = messages_of(process, 4)
    assert [(end["job_id"], end["code"]) for end in (runs, waits)] == [
        (job_id, "cancelled") for job_id in ids
    ]
    wait_success(process)
    late = start(client, fleet.url, options=["-cancel", "runs"])
    assert "job runs has ended" in failure_of(late)


def test_go_enters_a_redis_by_its_password_and_refuses_one_that_evicts(
    client: Path, tmp_path: Path
) -> None:
    server = RedisServer(tmp_path / "redis")
    try:
        url = f"redis://:p%40ss%2Fword@127.0.0.1:{server.port}/2"
        with connect(server.url) as redis:
            redis.config_set("requirepass", "p@ss/word")
        assert "refused INFO: NOAUTH" in failure_of(start(client, server.url))
        wrong = failure_of(start(client, url.replace("word", "secret")))
        assert "refused the connection: WRONGPASS" in wrong
        assert "secret" not in wrong
        job = {"job_id": "kept", "method": "fake", "config": {}}
        process = start(client, url, job)
        messages_of(process, 1)
        process.terminate()
        assert "job kept has no end yet" in failure_of(process)
        with connect(url) as redis:
            assert redis.hexists("upscaled:job:kept", "given_at")
            assert redis.llen("fake\x06\x164") == 1
            redis.config_set("maxmemory-policy", "allkeys-lru")
        refusal = failure_of(start(client, url, job))
        assert f"redis://127.0.0.1:{server.port}/2 would lose jobs" in refusal
        assert "allkeys-lru: set maxmemory-policy to noeviction" in refusal
        assert "word" not in refusal
    finally:
        server.kill()
