"""A stand-in daemon for the Python client, which answers each job that it can name."""

from __future__ import annotations

import sys
from typing import Any

from upscaled import (
    Call,
    Upscaler,
)

TIMEOUT_S = 60.0

# Answers each job that it can name, and nothing else. Its first argument is Python code.
ECHO = """
import json, os, sys
sys.setrecursionlimit(5000)  # as deep as the client can write
def say(**message): print(json.dumps(message), flush=True)
exec(sys.argv[1])
say(type="status", message="ready")
for line in sys.stdin.buffer:
    job = json.loads(line)
    if job.get("type") == "health":
        say(type="health", queue_size=0, request_id=job.get("request_id"))
        continue
    if job.get("type") == "cancel":
        continue
    assert 1 <= len(job["job_id"]) <= 128 and not ascii(job["job_id"]).count("\\\\ud"), job
    if "hold" in job["config"]:
        continue
    if "null" in job["config"]:
        say(type="error", job_id=None, code="invalid_json", error="no id", retryable=False)
    say(type="accepted", job_id=job["job_id"], position=0)
    if "accept" in job["config"]:
        continue
    if "progress" in job["config"]:
        say(type="progress", job_id=job["job_id"], progress=50.0, stage="tile")
    say(type="result", job_id=job["job_id"], model=str(job["config"].get("model")))
    say(type="result", job_id=job["job_id"], model="a second end")
"""


def echo(first: str = "", **options: Any) -> Upscaler:
    command = [sys.executable, "-SE", "-c", ECHO, first]
    return Upscaler(command=command, **{"cancel_grace_s": 0.05, "close_timeout_s": 0.1} | options)


def submit(up: Upscaler, job_id: str | None = None, **config: Any) -> Call[None]:
    return up.submit_job({"job_id": job_id, "method": "fake", "config": config})


def run(up: Upscaler, job_id: str | None = None, **config: Any) -> str | None:
    """The model that one job's result names."""
    return submit(up, job_id, **config).result(TIMEOUT_S).model
