"""Hosts that lack something: open files, memory, a folder for temporary files."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from upscaled_models.torchcache import settle_torch_cache
from upscaled_protocol.errors import ErrorCode
from upscaled_worker.starvation import start_failure

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 200


def run_limited(limit: str, job: dict[str, Any], *options: str) -> tuple[int, dict[str, Any]]:
    """The exit status, and the terminal event of a job that is piped into `upscaled run`."""
    daemon = [sys.executable, "-P", "-m", "upscaled_supervisor", *options]
    done = subprocess.run(
        ["bash", "-c", f'{limit}; exec "$@"', "bash", *daemon],
        input=json.dumps(job).encode() + b"\n",
        stdout=subprocess.PIPE,
        check=False,
        timeout=TIMEOUT_S,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, next(one for one in lines if one["type"] in ("result", "error"))


def test_a_pipe_of_jobs_ends_on_a_host_without_room_for_a_worker() -> None:
    status, end = run_limited("ulimit -n 10", {"job_id": "1", "method": "fake"}, "--methods=fake")
    assert (status, end["code"], end["retryable"]) == (3, "worker_crashed", True)
    assert "a process may have 10: raise `ulimit -n`" in end["error"]


def test_a_pipe_of_jobs_ends_on_a_host_without_memory_for_a_worker() -> None:
    limit = "ulimit -s 8192; ulimit -v 60000"  # no room for a worker's threads
    status, end = run_limited(limit, {"job_id": "1", "method": "fake"}, "--methods=fake")
    assert (status, end["code"], end["retryable"]) == (3, "worker_crashed", True)
    assert "a process may have 58 MiB of memory: raise `ulimit -v`" in end["error"]


KILLED_WHILE_STARTING = """
import os
import sys

if "upscaled_worker.forkserver" in sys.orig_argv:
    os.kill(os.getpid(), 9)
"""


def test_a_pipe_of_jobs_ends_if_every_worker_is_killed_before_it_is_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(KILLED_WHILE_STARTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    limit = "ulimit -t 500"  # seconds of processor time
    status, end = run_limited(limit, {"job_id": "1", "method": "fake"}, "--methods=fake")
    assert (status, end["code"], end["retryable"]) == (3, "worker_crashed", True)
    assert "ended by SIGKILL" in end["error"]
    assert "a process may use 500 s of processor time: raise `ulimit -t`" in end["error"]


NO_TEMPORARY_FOLDER = """
import tempfile

def fail():
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

tempfile._get_default_tempdir = fail
"""


def test_esrgan_works_without_a_folder_for_temporary_files(
    start_supervisor: StartDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER)
    env = {"PYTHONPATH": str(tmp_path)}
    daemon = start_supervisor("--methods", "esrgan", env=env)
    config: dict[str, Any] = {"image_path": str(ROOT / "examples/astronaut.jpg")}
    config |= {"model": "compact-x2", "upscale_factor": 2}
    daemon.job("file", "esrgan", **config, output_path=str(tmp_path / "out.png"))
    assert daemon.wait_terminal("file")["type"] == "result"
    assert b"cannot pre-import" not in daemon.stderr
    daemon.job("text", "esrgan", **config, output_base64=True)  # which needs such a folder
    end = daemon.wait_terminal("text")
    assert (end["code"], end["retryable"]) == ("worker_crashed", True)
    assert "set TMPDIR to a folder that has room" in end["error"]


def test_torchs_cache_is_settled_only_if_no_temporary_file_can_be_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    settle_torch_cache()
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ

    def fail() -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", fail)
    settle_torch_cache()
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]).is_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "the user's own")
    settle_torch_cache()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "the user's own"


HALF_IMPORTED = """
import os
import sys
from upscaled_models.fake import FakeEngine

def preimport(*_):
    if sys.argv[0].endswith("forkserver.py"):  # in what is forked from it too
        raise OSError("the disk is full")

FakeEngine.preimport = preimport
"""


def test_no_worker_is_forked_from_a_template_that_is_half_imported(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HALF_IMPORTED)
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path)})
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    daemon.wait_stderr(b"cannot pre-import the fake engine: the disk is full")
    daemon.wait_stderr(b'"event":"template_unusable"')


def chained(cause: BaseException) -> BaseException:
    error = RuntimeError("it did not work")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "advice"),
    [
        (OSError(errno.EMFILE, "Too many open files"), ErrorCode.WORKER_CRASHED, "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left"), ErrorCode.WORKER_CRASHED, "TMPDIR"),
        (OSError(errno.EROFS, "Read-only file system"), ErrorCode.WORKER_CRASHED, "TMPDIR"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            ErrorCode.WORKER_CRASHED,
            "TMPDIR",
        ),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY, ""),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object"),
            ErrorCode.OUT_OF_MEMORY,
            "",
        ),
        (RuntimeError("can't start new thread"), ErrorCode.OUT_OF_MEMORY, ""),
        (chained(OSError(errno.ENOMEM, "no memory")), ErrorCode.OUT_OF_MEMORY, ""),
        (RuntimeError("a defect"), ErrorCode.INTERNAL, ""),
        (FileNotFoundError(errno.ENOENT, "a.txt"), ErrorCode.INTERNAL, ""),
    ],
)
def test_an_error_for_lack_of_a_resource_names_it_and_is_retryable(
    error: BaseException, code: ErrorCode, advice: str
) -> None:
    failure = start_failure("esrgan", error)
    assert failure.code == code
    assert failure.retryable == (code != ErrorCode.INTERNAL)
    assert failure.message.startswith("the esrgan engine cannot start: ")
    assert advice in failure.message
