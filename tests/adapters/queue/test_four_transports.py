"""The same jobs by stdio, HTTP, Celery and BullMQ: the same outputs, and the same ends."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

import nearest_engine
from queue_fleet import Fleet, Job, needs_redis, running_fleet
from serve_process import TIMEOUT_S, ServeProcess, serve_process
from upscaled_protocol.messages import Error, Result

pytestmark = needs_redis

METHODS = "esrgan,fake"
# Cropped, with a loss and with a resolution of its own: all of it is in the file or in the result.
ENLARGED = {"target_width": 150, "target_height": 150, "crop": "center", "quality": 80,
            "output_format": "webp", "target_dpi": 240}  # fmt: skip
FAILING = {"error_code": "input_unreadable"}
# Times, ids and paths.
OWN = {"job_id", "processing_time", "timings", "output_path"}


class End(NamedTuple):
    event: dict[str, Any]
    output: bytes | None


def test_a_job_has_the_same_output_and_the_same_end_by_each_transport(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", nearest_engine.environment()["PYTHONPATH"])
    with running_fleet("redis", tmp_path) as fleet, serve_process(tmp_path / "data") as serve:
        source = fleet.outputs / "in.png"
        source.write_bytes(_picture())
        celery = _submit(fleet, source, "celery")
        fleet.use_bullmq()
        bullmq = _submit(fleet, source, "bullmq")
        stdio = _by_stdio(_jobs(source, fleet.outputs / "stdio"))
        ends = {
            "http": _by_http(serve, source),
            "celery": _by_queue(fleet, celery),
            "bullmq": _by_queue(fleet, bullmq),
        }
    picture, failure = stdio
    assert picture.event["output_size"] == {"width": 150, "height": 150}
    assert picture.event["crop_info"] is not None
    assert picture.output
    assert failure.event["code"] == "input_unreadable"
    assert ends == dict.fromkeys(ends, stdio)


def _picture() -> bytes:
    buffer = BytesIO()
    Image.radial_gradient("L").resize((48, 32)).convert("RGB").save(buffer, "PNG", dpi=(96, 96))
    return buffer.getvalue()


def _jobs(source: Path, output: Path) -> list[Job]:
    paths = {"image_path": str(source), "output_path": f"{output}.webp"}
    return [
        {"job_id": f"{output.name}-1", "method": "esrgan", "config": {**ENLARGED, **paths}},
        {"job_id": f"{output.name}-2", "method": "fake", "config": FAILING},
    ]


def _end(event: dict[str, Any]) -> End:
    path = event.get("output_path")
    return End(_without_own(event), None if path is None else Path(path).read_bytes())


def _without_own(fields: dict[str, Any]) -> dict[str, Any]:
    kind = Result if "error" not in fields else Error
    known = {name: fields[name] for name in kind.model_fields if name in fields}
    return kind.model_validate(known).model_dump(mode="json", exclude=OWN)


def _by_stdio(jobs: Sequence[Job]) -> list[End]:
    command = [sys.executable, "-m", "upscaled_cli", "run", "--methods", METHODS]
    done = subprocess.run(
        command,
        input="".join(json.dumps(job) + "\n" for job in jobs),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
        env=nearest_engine.environment(),
    )
    events = [json.loads(line) for line in done.stdout.splitlines()]
    ends = {one["job_id"]: one for one in events if one["type"] in ("result", "error")}
    return [_end(ends[job["job_id"]]) for job in jobs]


def _by_http(serve: ServeProcess, source: Path) -> list[End]:
    image = base64.b64encode(source.read_bytes()).decode()
    jobs = [
        serve.submit("esrgan", image_base64=image, **ENLARGED),
        serve.submit("fake", **FAILING),
    ]
    picture, failure = [serve.ended(job["job_id"]) for job in jobs]
    answer = serve.client.get(picture["result_url"])
    assert answer.status_code == 200
    return [End(_without_own(picture), answer.content), End(_without_own(failure), None)]


def _submit(fleet: Fleet, source: Path, name: str) -> list[Job]:
    fleet.start_machine("--methods", METHODS)
    jobs = _jobs(source, fleet.outputs / name)
    assert fleet.command("submit", jobs=jobs).returncode == 0
    return jobs


def _by_queue(fleet: Fleet, jobs: Sequence[Job]) -> list[End]:
    return [_end(fleet.end_of(job["job_id"])) for job in jobs]
