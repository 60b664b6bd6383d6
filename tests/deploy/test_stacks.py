"""The backends' images, run as their compose files say, each asked at each of its routes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from free_ports import free_port
from images import GO_IMAGE, NEST_IMAGE, ROOT, Store
from waiting import TIMEOUT_S

pytestmark = [pytest.mark.image, pytest.mark.long, pytest.mark.timeout(2400)]

_USER = 10001
_CHECK_TIMEOUT_S = 300


def _needs(*programs: str) -> None:
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


def _service(file: str, name: str) -> dict[str, Any]:
    compose = yaml.safe_load((ROOT / "docker" / file).read_text("utf-8"))
    service: dict[str, Any] = compose["services"][name]
    return service


def _options(service: dict[str, Any], folder: Path, **changes: str) -> list[str]:
    """What the service says, as podman's options; its volumes are folders. The options that
    `Store.run` has in any case must be the service's own."""
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    options = []
    for volume in service["volumes"]:
        name, _, target = volume.partition(":")
        (folder / name).mkdir()
        os.chown(folder / name, _USER, _USER)
        options.append(f"--volume={folder / name}:{target}")
    settings = {**service.get("environment", {}), **changes}
    # A value like ${MAX_CONCURRENT_JOBS:-4} stands for its default.
    values = {name: value.rpartition(":-")[2].rstrip("}") for name, value in settings.items()}
    return options + [f"--env={name}={value}" for name, value in values.items()]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(TIMEOUT_S)


def _check(backend: str, port: int, log: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, ROOT / "docker" / "review" / "backends.py"),
            *(backend, f"http://127.0.0.1:{port}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=_CHECK_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr + log.read_text("utf-8", "replace")


def _stop(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(TIMEOUT_S)


def test_the_nest_backend_answers_each_route_and_stops(store: Store, tmp_path: Path) -> None:
    _needs("node", "npm", "redis-server")
    store.build_nest()
    redis = _service("compose.stack.yaml", "redis")["command"]
    backend = _service("compose.stack.yaml", "backend")
    redis_port, port, log = free_port(), free_port(), tmp_path / "log"
    options = _options(
        backend, tmp_path, PORT=str(port), REDIS_HOST="127.0.0.1", REDIS_PORT=str(redis_port)
    )
    where = ["--bind", "127.0.0.1", "--port", str(redis_port), "--dir", str(tmp_path)]
    with (
        _process([*redis, *where], tmp_path / "redis.log"),
        _process(store.run(*options, image=NEST_IMAGE), log) as running,
    ):
        _check("nest", port, log)
        # Nest ends itself with the signal, after its hooks.
        assert _stop(running) in (0, 128 + signal.SIGTERM), log.read_text("utf-8", "replace")


def test_the_go_backend_answers_each_route_and_stops(store: Store, tmp_path: Path) -> None:
    store.build_go()
    backend = _service("compose.go.yaml", "backend")
    port, log = free_port(), tmp_path / "log"
    assert backend["command"] == ["-address", "0.0.0.0:8090"]
    command = ["-address", f"127.0.0.1:{port}"]
    options = _options(backend, tmp_path)
    with _process(store.run(*options, image=GO_IMAGE, command=command), log) as running:
        _check("go", port, log)
        assert _stop(running) == 0, log.read_text("utf-8", "replace")
