"""Files that containers and services are started from, checked by their own validators."""

from __future__ import annotations

import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_DOCKER = ROOT / "docker"
_BIN = Path(sys.executable).parent
_TIMEOUT_S = 60
# Files that are read on top of another.
_LAYERS = {"compose.keys.yaml": "compose.yaml", "compose.gpu.yaml": "compose.yaml"}
# systemd's own measure, from 0 (confined) to 10.
_MOST_EXPOSED = 2.0


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)


def _needs(program: str, package: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian: apt-get install {package})")
    return path


@pytest.mark.parametrize("file", sorted(path.name for path in _DOCKER.glob("*Dockerfile")))
def test_hadolint_finds_nothing(file: str) -> None:
    done = _run(_BIN / "hadolint", _DOCKER / file)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", sorted(path.name for path in _DOCKER.glob("*Dockerfile")))
def test_every_base_image_is_pinned_by_its_digest(file: str) -> None:
    text = (_DOCKER / file).read_text("utf-8")
    bases = re.findall(r"^ARG (?:BASE|NODE|GO)_IMAGE=(.*)$", text, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"[\w./:-]+@sha256:[0-9a-f]{64}", base) for base in bases)


@pytest.mark.parametrize("file", sorted(path.name for path in _DOCKER.glob("compose*.yaml")))
def test_compose_takes_the_file(file: str) -> None:
    compose = _needs("docker-compose", "docker-compose")
    layers = [_LAYERS[file], file] if file in _LAYERS else [file]
    done = _run(compose, *(part for one in layers for part in ("-f", str(_DOCKER / one))), "config")
    assert (done.returncode, done.stderr) == (0, "")


def test_every_published_port_is_this_machines_alone() -> None:
    files = [file.read_text("utf-8") for file in _DOCKER.glob("compose*.yaml")]
    ports = re.findall(r'^ +- "([\d.:]+:\d+)"$', "\n".join(files), re.MULTILINE)
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_systemd_takes_the_unit_and_it_is_confined(tmp_path: Path) -> None:
    analyze = _needs("systemd-analyze", "systemd")
    unit = tmp_path / "upscaled.service"
    text = (ROOT / "packaging" / "systemd" / "upscaled.service").read_text("utf-8")
    # A program that is here stands in for the one that the unit starts.
    unit.write_text(text.replace("/opt/upscaled/bin/upscaled", "/bin/true"), "utf-8")
    # It exits with 0 on bad values too: what it writes to stderr counts.
    verified = _run(analyze, "verify", unit)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = _run(analyze, "security", "--offline=true", unit).stdout
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", judged)
    assert exposure is not None
    assert float(exposure[1]) <= _MOST_EXPOSED


def test_the_property_list_starts_the_server_again_after_a_failure() -> None:
    with (ROOT / "packaging" / "launchd" / "upscaled.plist").open("rb") as file:
        settings = plistlib.load(file)
    assert settings["ProgramArguments"][-1] == "serve"
    assert settings["KeepAlive"] == {"SuccessfulExit": False}
    # launchd sends SIGKILL after this; running jobs have server.grace_s (25).
    assert settings["ExitTimeOut"] > 25


def test_kubernetes_takes_the_manifests() -> None:
    done = _run(_BIN / "kubernetes-validate", "--strict", _DOCKER / "kubernetes" / "upscaled.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
