"""A host that knows only four messages, with a bare worker and with a supervised one.

It spawns the daemon, waits for `{"type":"status","message":"ready"}`, writes jobs without a type,
and settles each on the `result` or the `error` of its id. It ignores every other type, and logs
lines that are not JSON. Such hosts exist, so this one must always work unmodified.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

TIMEOUT_S = 60.0


class MinimalHost:
    """The host side of the four messages."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.ready = threading.Event()
        self.junk: list[bytes] = []
        self._pending: dict[str, Future[str | None]] = {}
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def upscale(self, method: str, config: dict[str, Any]) -> Future[str | None]:
        """Send one job; the path of its output, or the error's text as an exception."""
        assert self.ready.wait(TIMEOUT_S)
        job_id = str(uuid.uuid4())
        future = self._pending[job_id] = Future()
        job = {"job_id": job_id, "method": method, "config": config}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        return future

    def close(self) -> None:
        """End the input and wait for the daemon to leave."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(TIMEOUT_S)
        self._reader.join(TIMEOUT_S)
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                message = json.loads(line)
            except ValueError:
                self.junk.append(line)
                continue
            kind = message.get("type")
            if kind == "status" and message["message"] == "ready":
                self.ready.set()
            elif kind == "result":
                self._pending.pop(message["job_id"]).set_result(message.get("output_path"))
            elif kind == "error" and message.get("job_id") in self._pending:
                self._pending.pop(message["job_id"]).set_exception(RuntimeError(message["error"]))


COMMANDS = {
    "worker": [sys.executable, "-u", "-m", "upscaled_worker"],
    "run": [str(Path(sys.executable).with_name("upscaled")), "run"],
}


@pytest.fixture(params=COMMANDS)
def command(request: pytest.FixtureRequest) -> list[str]:
    return COMMANDS[request.param]


@pytest.fixture
def fake_host(command: list[str]) -> Iterator[MinimalHost]:
    """A host of a daemon with the fake engine."""
    host = MinimalHost([*command, "--methods", "fake"])
    yield host
    host.close()


@pytest.fixture
def host(command: list[str]) -> Iterator[MinimalHost]:
    """A host of a daemon as it comes."""
    host = MinimalHost(command)
    yield host
    host.close()


def test_its_jobs_all_settle(fake_host: MinimalHost, tmp_path: Path) -> None:
    outputs = [tmp_path / f"{number}.txt" for number in range(50)]
    futures = [
        fake_host.upscale("fake", {"output_path": str(path), "output_text": path.name, "steps": 3})
        for path in outputs
    ]
    assert [future.result(TIMEOUT_S) for future in futures] == [str(path) for path in outputs]
    assert [path.read_text() for path in outputs] == [path.name for path in outputs]
    assert fake_host.junk == []


@pytest.mark.parametrize(
    ("method", "config", "text"),
    [
        ("fake", {"raise_text": "the model exploded"}, "the model exploded"),
        ("fake", {"error_code": "out_of_memory"}, "the job asked the fake engine for this"),
        ("fake", {"step": 3}, 'config has no field "step"'),
        ("imagen", {"image_path": "a.png"}, "is not served here"),
        ("polish", {}, 'unknown method "polish"'),
    ],
)
def test_its_failing_jobs_end_with_a_reason_and_the_next_one_works(
    fake_host: MinimalHost, method: str, config: dict[str, Any], text: str
) -> None:
    with pytest.raises(RuntimeError, match=text):
        fake_host.upscale(method, config).result(TIMEOUT_S)
    assert fake_host.upscale("fake", {"model": "next"}).result(TIMEOUT_S) is None


def test_the_prints_of_a_library_never_reach_it(fake_host: MinimalHost) -> None:
    config = {"print_text": "tqdm", "c_print_text": "cuda", "subprocess_text": "ffmpeg"}
    fake_host.upscale("fake", config).result(TIMEOUT_S)
    assert fake_host.junk == []


def test_supervised_it_never_notices_that_its_worker_crashed() -> None:
    with closing(MinimalHost([*COMMANDS["run"], "--methods", "fake"])) as host:
        killed = host.upscale("fake", {"signal": 9, "only_on_attempt": 1})
        others = [host.upscale("fake", {"steps": 2}) for _ in range(10)]
        for future in [killed, *others]:
            assert future.result(TIMEOUT_S) is None


def test_a_picture_comes_back_four_times_as_large_also_after_a_missing_one(
    host: MinimalHost, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match=r"gone\.png"):
        host.upscale("esrgan", {"image_path": str(tmp_path / "gone.png")}).result(TIMEOUT_S)
    photo = tmp_path / "photo.png"
    gradient = Image.linear_gradient("L").resize((48, 32))
    Image.merge("RGB", [gradient, gradient.rotate(180), gradient]).save(photo)
    config = {
        "image_path": str(photo),
        "upscale_factor": 4,
        "target_dpi": 150,
        "tile_size": 512,
        "upscale_model": "compact-x4",
        "output_format": "png",
    }
    output_path = host.upscale("esrgan", config).result(TIMEOUT_S)
    assert output_path is not None
    with Image.open(output_path) as picture:
        assert (picture.format, picture.size) == ("PNG", (192, 128))
    assert Path(output_path) != photo
    config = {"image_path": str(photo), "output_path": str(tmp_path / "out.tiff")}
    assert host.upscale("esrgan", config).result(TIMEOUT_S) == str(tmp_path / "out.tiff")
    with Image.open(tmp_path / "out.tiff") as picture:
        assert (picture.format, picture.size) == ("TIFF", (192, 128))
