"""A worker one of whose own threads fails: it says why, ends its jobs and exits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from upscaled_worker.threads import EXIT_FAILED

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

# An exception ends the thread that starts the engines.
FAULT = """
from upscaled_models.fake import FakeEngine
def fail(self): raise PermissionError(13, "Permission denied", "/models")
FakeEngine.models = fail
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """The environment of a worker with that fault."""
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    return {"PYTHONPATH": str(tmp_path)}


def test_a_bare_worker_whose_thread_fails_ends_every_job_and_exits_with_the_reason(
    start_worker: StartDaemon, env: dict[str, str]
) -> None:
    worker = start_worker("--max-queue", "3", env=env)
    worker.job("fails", raise_text="boom")
    worker.job("runs", hang=True)
    for number in range(4):
        worker.job(f"waits {number}", hang=True)
    worker.send({"type": "trim"}, {"type": "health"})
    assert worker.wait() == EXIT_FAILED
    assert b"worker_failed" in worker.stderr
    degraded = worker.wait_status("degraded")
    assert "the worker failed: " in degraded["detail"]
    ended = [line["job_id"] for line in worker.terminals()]
    accepted = [line["job_id"] for line in worker.lines if line["type"] == "accepted"]
    assert len(ended) == len(set(ended))
    assert set(accepted) <= set(ended)


def test_a_supervisor_answers_jobs_with_the_reason_of_a_worker_that_cannot_start(
    start_supervisor: StartDaemon, env: dict[str, str]
) -> None:
    daemon = start_supervisor(env=env)
    daemon.job("a")
    error = daemon.wait_terminal("a")
    assert error["code"] == "worker_crashed"
    assert "PermissionError: [Errno 13] Permission denied: '/models'" in error["error"]


def test_a_model_folder_that_cannot_be_read_counts_as_empty_and_is_reported_once(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    # A name that is too long to look at fails for root too, who may read everything.
    folder = tmp_path / ("m" * 300)
    worker = start_worker("--methods", "esrgan", "--model-dir", str(folder))
    ready = worker.wait_status("ready")
    assert ready["methods"] == ["esrgan"]
    assert "compact-x4" in ready["models"]
    worker.job("a", "esrgan", image_path="a.png", model="4x-UltraSharp")
    assert "cannot be read and counts as empty" in worker.wait_terminal("a")["error"]
    assert worker.finish() == 0
    assert worker.stderr.count(b"model_folder_unreadable") == 1


def test_a_model_to_preload_that_no_method_uses_is_named(start_worker: StartDaemon) -> None:
    worker = start_worker("--methods", "fake", "--preload", "GFPGANv1.4", "--preload", "mine")
    worker.wait_status("ready")
    assert worker.finish() == 0
    for said in ("GFPGANv1.4 needs the face method", "mine needs the esrgan method"):
        assert said.encode() in worker.stderr


def test_a_device_that_cannot_be_used_is_named_as_the_operator_gave_it(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor("--methods", "esrgan", "--device", "cuda:99")
    daemon.job("a", "esrgan", image_path="a.png")
    error = daemon.wait_terminal("a")["error"]
    assert "the device cuda:0 (CUDA_VISIBLE_DEVICES=99) cannot be used here" in error


def test_a_uid_without_a_user_and_a_home_has_a_model_folder(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    unknown = "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown\n"
    (tmp_path / "sitecustomize.py").write_text(
        "import os\nos.environ.pop('HOME', None)\n" + unknown
    )
    worker = start_worker("--methods", "esrgan,fake", env={"PYTHONPATH": str(tmp_path)})
    assert worker.wait_status("ready")["methods"] == ["esrgan", "fake"]
    assert worker.finish() == 0
