"""The start of a daemon: its options, its environment and its engines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from upscaled_models.catalog import bundled_weights_dir

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


@pytest.mark.parametrize("end", ["wait", "finish"])
def test_wrong_worker_options_end_the_daemon(start_supervisor: StartDaemon, end: str) -> None:
    daemon = start_supervisor("--no-such-option")
    assert getattr(daemon, end)() == 2  # `finish` ends the input before the options are read
    assert b"--no-such-option" in daemon.stderr


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("upscaled_worker", "DEFAULT_DPI", "many"),
        ("upscaled_worker", "DEFAULT_UPSCALE_FACTOR", "nan"),
        ("upscaled_supervisor", "DEFAULT_DPI", "0"),
    ],
)
def test_a_wrong_setting_in_the_environment_is_named(
    start_daemon: StartDaemon, module: str, name: str, value: str
) -> None:
    daemon = start_daemon(module, "--methods", "fake", env={name: value})
    assert daemon.wait() == 2
    assert name.encode() in daemon.stderr
    assert f"not '{value}'".encode() in daemon.stderr


def test_the_supervisor_imports_neither_torch_nor_numpy_nor_pydantic() -> None:
    code = (
        "import sys, upscaled_supervisor.__main__, upscaled_supervisor.loop\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'asyncio', 'psutil'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_engine_that_cannot_start_answers_its_jobs_with_the_reason(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor("--methods", "esrgan,fake", "--preload", "no-such-model")
    assert "no-such-model" in daemon.wait_status("degraded")["detail"]
    assert daemon.wait_status("ready")["methods"] == ["fake"]
    daemon.job("a", method="esrgan", image_path="a.png")
    error = daemon.wait_terminal("a")
    assert error["code"] == "model_not_found"
    assert "no-such-model" in error["error"]
    daemon.job("b")
    assert daemon.wait_terminal("b")["type"] == "result"


@pytest.mark.parametrize("template", ["--template", "--no-template"])
def test_a_deleted_working_folder_is_no_obstacle(tmp_path: Path, template: str) -> None:
    """MKL, a library of torch, ends a process that loads it in such a folder, with status 2."""
    folder = tmp_path / "deleted"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    config = {
        "image_path": str(tmp_path / "in.png"),
        "output_path": str(tmp_path / "out.png"),
        "model": "compact-x2",
        "upscale_factor": 2,
    }
    command = [sys.executable, "-m", "upscaled_supervisor", "--methods", "esrgan", template]
    done = subprocess.run(
        ["sh", "-c", 'rmdir "$PWD" && exec "$@"', "sh", *command],
        cwd=folder,
        input=json.dumps({"job_id": "a", "method": "esrgan", "config": config}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_job_tells_what_is_wrong_with_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "upscaled_supervisor", "--methods", "fake"],
        input=json.dumps({"job_id": "a", "method": "fake", "config": {}}),
        env=os.environ | {"DEFAULT_DPI": "fine"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "DEFAULT_DPI must be a number from 1 to 100000, not 'fine'" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_exit_status_of_a_library_is_not_wrong_usage(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'upscaled_worker.forkserver' in sys.orig_argv:\n    os._exit(2)\n"
    )
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path)})
    daemon.wait_status("degraded")
    assert daemon.finish() == 3


@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
@pytest.mark.parametrize("module", ["upscaled_supervisor", "upscaled_worker"])
def test_a_signal_that_is_ignored_from_the_start_stays_ignored(module: str, name: str) -> None:
    """`nohup` and a shell's `&` start a daemon so."""
    code = (
        "import os, signal, sys\n"
        f"signal.signal(signal.{name}, signal.SIG_IGN)\n"
        "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, module, "--methods", "fake"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        while b'"ready"' not in daemon.stdout.readline():
            pass
        ignored = Path(f"/proc/{daemon.pid}/status").read_text().split("SigIgn:")[1].split()[0]
        assert int(ignored, 16) & 1 << (signal.Signals[name] - 1)
        daemon.stdin.close()
        daemon.stdout.read()


def test_a_hangup_during_the_start_waits() -> None:
    code = (
        "import os, signal, sys\n"
        "from upscaled_cli.__main__ import main\n"
        "sys.meta_path.insert(0, type('Hangup', (), {'find_spec': lambda *_: "
        "os.kill(os.getpid(), signal.SIGHUP)})())\n"
        "sys.exit(main(['run', '--methods', 'fake']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=b'{"job_id":"a","method":"fake"}\n',
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_an_engine_that_could_not_start_is_tried_again(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    models = tmp_path / "models" / "upscale_models"
    models.mkdir(parents=True)
    options = ("--methods", "esrgan", "--preload", "mine", "--model-dir", str(models.parent))
    daemon = start_supervisor(*options)
    assert daemon.wait_status("ready")["methods"] == []
    shutil.copy(bundled_weights_dir() / "compact-x2.safetensors", models / "mine.safetensors")
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    config = {"image_path": str(tmp_path / "in.png"), "model": "mine", "upscale_factor": 2}
    daemon.job("a", method="esrgan", **config)
    end = daemon.wait_terminal("a")
    assert end["type"] == "result", end
    ready = [line for line in daemon.lines if line.get("message") == "ready"]
    assert ready[-1]["methods"] == ["esrgan"]
    assert daemon.ask_health()["status"] == "ok"


# A fake engine that lacks a file, though its jobs run.
_LACKING = """
from upscaled_models.fake import FakeEngine
FakeEngine.lacks = lambda self: "the fake method needs luck: pull it"
"""


def test_a_method_that_lacks_its_files_is_explained_and_named_once_it_works(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_LACKING)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    daemon = start_supervisor(env={"PYTHONPATH": paths})
    ready = daemon.wait_status("ready")
    assert ready["methods"] == []
    assert ready["unavailable"] == {"fake": "the fake method needs luck: pull it"}
    assert daemon.ask_health()["status"] == "ok"
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    again = [line for line in daemon.lines if line.get("message") == "ready"][-1]
    assert again["methods"] == ["fake"]
    assert "unavailable" not in again
