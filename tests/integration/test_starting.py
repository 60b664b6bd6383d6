"""What a daemon makes of its options, its environment and its engines before the first job."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


def test_wrong_worker_options_are_told_at_once(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--no-such-option")
    assert daemon.wait() == 2
    assert b"--no-such-option" in daemon.stderr


@pytest.mark.parametrize("module", ["upscaled_worker", "upscaled_supervisor"])
@pytest.mark.parametrize(
    ("name", "value"),
    [("DEFAULT_DPI", "many"), ("DEFAULT_DPI", "0"), ("DEFAULT_UPSCALE_FACTOR", "nan")],
)
def test_a_wrong_setting_in_the_environment_is_told_by_its_name(
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


@pytest.mark.parametrize("module", ["upscaled_worker", "upscaled_supervisor"])
def test_an_engine_that_cannot_start_answers_its_jobs_with_the_reason(
    start_daemon: StartDaemon, module: str
) -> None:
    daemon = start_daemon(module, "--methods", "esrgan,fake", "--preload", "no-such-model")
    assert "no-such-model" in daemon.wait_status("degraded")["detail"]
    assert daemon.wait_status("ready")["methods"] == ["fake"]
    daemon.job("a", method="esrgan", image_path="a.png")
    error = daemon.wait_terminal("a")
    assert error["code"] == "model_not_found"
    assert "no-such-model" in error["error"]
    daemon.job("b")
    assert daemon.wait_terminal("b")["type"] == "result"
