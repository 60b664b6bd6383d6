"""FLUX jobs over the protocol, in real processes, on files in miniature."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import pyvips

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
from upscaled_bench.flux_replicas import install_upscaler, write_replica

if TYPE_CHECKING:
    from tests.conftest import Daemon, Line, StartDaemon

# An audit hook that lets no socket be made, and says who wanted one.
_NO_SOCKETS = """
import sys
def refuse(event, args):
    if event.startswith("socket."):
        caller = sys._getframe(2).f_code.co_name
        sys.stderr.write(f"refused {event} of {caller}\\n")
        raise PermissionError(event)
sys.addaudithook(refuse)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    replica = write_replica(tmp_path_factory.mktemp("flux") / "models")
    install_upscaler(replica.folder)
    return replica.folder


@pytest.fixture(scope="module")
def worker(
    start_shared_daemon: StartDaemon, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A ready one, without FLUX's libraries. It may make no socket, and has tried none when it
    ends."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "sitecustomize.py").write_text(_NO_SOCKETS)
    paths = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    methods = options(models, "esrgan", "flux")
    worker = start_shared_daemon("upscaled_worker", *methods, env={"PYTHONPATH": paths})
    ready = worker.wait_status("ready")
    assert ready["methods"] == ["esrgan", "flux"]
    assert "flux1-dev-Q8_0" in ready["models"]
    assert not maps_tokenizers(worker.pid)
    yield worker
    worker.finish()
    refused = {line for line in worker.stderr.splitlines() if line.startswith(b"refused")}
    # urllib3, which diffusers imports, tries out at once whether there is IPv6 here.
    assert refused <= {b"refused socket.__new__ of _has_ipv6"}


def write_picture(path: Path, width: int = 48, height: int = 40) -> Path:
    generator = np.random.default_rng(0)
    image = pyvips.Image.new_from_array(generator.integers(0, 256, (height, width, 3), np.uint8))
    image.copy(interpretation="srgb").write_to_file(str(path))
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write_picture(tmp_path / "in.png")


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A picture that takes minutes, so that its job is at it whatever happens when."""
    return write_picture(tmp_path / "endless.png", 960, 800)


def send(daemon: Daemon, job_id: str, picture: Path, **config: Any) -> Path:
    output = picture.with_name(f"{job_id}.png")
    given = {"upscale_model": "compact-x4", "steps": 2, "tile_size": 128} | config
    daemon.job(job_id, "flux", image_path=str(picture), output_path=str(output), **given)
    return output


def wait_refining(daemon: Daemon, job_id: str) -> None:
    """Until the job is at its model calls."""

    def at_it(line: Line) -> bool:
        is_refining = (line.get("job_id"), line.get("stage")) == (job_id, "refine")
        return is_refining and line["done"] >= 1

    daemon.wait_for(at_it, f"steps of job {job_id}")


def options(models: Path, *methods: str) -> list[str]:
    return ["--methods", ",".join(methods), "--model-dir", str(models), "--threads", "1"]


def maps_tokenizers(pid: int) -> bool:
    return "tokenizers" in Path(f"/proc/{pid}/maps").read_text("utf-8")


def test_a_job_opens_no_socket_and_brings_the_libraries_with_it(
    worker: Daemon, picture: Path
) -> None:
    first = send(worker, "first", picture, prompt="a cat")
    result = worker.wait_terminal("first")
    assert result["type"] == "result", result
    assert result["output_size"] == {"width": 192, "height": 160}
    assert first.is_file()
    assert {"load", "decode", "inference", "encode"} <= set(result["timings"])
    assert maps_tokenizers(worker.pid)
    told = [line for line in worker.lines if line.get("job_id") == "first"]
    percents = [line["progress"] for line in told if line["type"] == "progress"]
    assert percents == sorted(percents)
    assert percents[-1] == 100


def test_bad_files_have_their_codes_and_the_worker_goes_on(
    worker: Daemon, models: Path, picture: Path
) -> None:
    whole = (models / "unet" / "flux1-dev-Q8_0.gguf").read_bytes()
    cut = models / "unet" / "cut.gguf"
    cut.write_bytes(whole[:-500])
    junk = models / "unet" / "junk.gguf"
    junk.write_bytes(b"not a model")
    for job_id, model, code, sentence in (
        ("a", "cut", "model_corrupt", "truncated"),
        ("b", "junk", "model_corrupt", "it is plain text, and no weights"),
        ("c", "absent", "model_not_found", "no model is called absent"),
    ):
        send(worker, job_id, picture, model=model)
        error = worker.wait_terminal(job_id)
        assert (error["type"], error["code"]) == ("error", code)
        assert sentence in error["error"]
    send(worker, "d", picture)
    assert worker.wait_terminal("d")["type"] == "result"


def test_a_cancel_takes_a_step_and_a_crash_costs_no_job(
    start_supervisor: StartDaemon, models: Path, picture: Path, endless: Path
) -> None:
    daemon = start_supervisor(*options(models, "flux"))
    daemon.wait_status("ready")
    expected = send(daemon, "whole", picture, steps=20)
    assert daemon.wait_terminal("whole")["type"] == "result"

    cancelled = send(daemon, "cancelled", endless, steps=20)
    wait_refining(daemon, "cancelled")
    daemon.send({"type": "cancel", "job_id": "cancelled"})
    assert daemon.wait_terminal("cancelled")["code"] == "cancelled"
    assert not cancelled.exists()

    again = send(daemon, "again", picture, steps=20)
    assert daemon.wait_terminal("again")["type"] == "result"
    assert again.read_bytes() == expected.read_bytes()

    crashed = send(daemon, "crashed", endless, steps=20)
    wait_refining(daemon, "crashed")
    picture.replace(endless)  # the second attempt has an end
    os.kill(int(daemon.ask_health()["workers"][0]["pid"]), signal.SIGKILL)
    result = daemon.wait_terminal("crashed")
    assert (result["type"], result["attempt"]) == ("result", 2)
    assert crashed.read_bytes() == expected.read_bytes()
