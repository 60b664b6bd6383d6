"""Files that containers and services are started from, checked by their own validators."""

from __future__ import annotations

import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from upscaled_queue.command import parser as queue_parser
from upscaled_queue.job import level_of
from upscaled_queue.work import parser

ROOT = Path(__file__).resolve().parents[2]
_DOCKER = ROOT / "docker"
_BIN = Path(sys.executable).parent
_TIMEOUT_S = 60
# Files that are read on top of `compose.yaml`.
_LAYERS = ("compose.keys.yaml", "compose.gpu.yaml")
_COMPOSED = [
    *([path.name] for path in sorted(_DOCKER.glob("compose*.yaml")) if path.name not in _LAYERS),
    *(["compose.yaml", layer] for layer in _LAYERS),
    ["compose.yaml", *_LAYERS],
]
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


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("vendor.compose-spec", sorted(_DOCKER.glob("compose*.yaml"))),
        ("vendor.github-workflows", sorted((ROOT / ".github" / "workflows").glob("*.yml"))),
    ],
    ids=["compose", "workflows"],
)
def test_the_files_meet_their_published_schema(schema: str, files: list[Path]) -> None:
    assert files
    done = _run(_BIN / "check-jsonschema", "--builtin-schema", schema, *files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("files", _COMPOSED, ids=" ".join)
def test_compose_takes_the_files(files: list[str]) -> None:
    compose = _needs("docker-compose", "docker-compose")
    done = _run(compose, *(part for one in files for part in ("-f", str(_DOCKER / one))), "config")
    assert (done.returncode, done.stderr) == (0, "")


def test_each_variable_that_a_compose_file_reads_is_in_the_example_of_the_settings() -> None:
    files = "".join(path.read_text("utf-8") for path in _DOCKER.glob("compose*.yaml"))
    read = {
        *re.findall(r"\$\{(\w+)", files),
        # A variable without a value is the one of that name on the host.
        *re.findall(r"^      ([A-Z_]+):$", files, re.MULTILINE),
    }
    example = (_DOCKER / ".env.example").read_text("utf-8")
    names = set(re.findall(r"^#(\w+)=", example, re.MULTILINE))
    assert len(read) > 8
    # The script for reviewers reads these two.
    assert names == read | {"UPSCALED_URL", "UPSCALED_KEY"}


def test_the_image_is_built_from_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    context = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert [package for package in packages if f"!{package}" not in context] == []


def test_the_image_takes_no_package_of_our_name_from_an_index() -> None:
    listed = _run(
        sys.executable, _DOCKER / "requirements.py", ROOT / "pyproject.toml", "http,celery"
    ).stdout.split()
    assert not any(requirement.startswith("upscaled") for requirement in listed)
    # Of `webhooks`, which both extras require.
    assert [part for part in listed if part.startswith("standardwebhooks")] == [
        "standardwebhooks>=1.1"
    ]


def test_every_published_port_is_this_machines_alone() -> None:
    files = [file.read_text("utf-8") for file in _DOCKER.glob("compose*.yaml")]
    ports = re.findall(r'^ +- "([\d.:]+:\d+)"$', "\n".join(files), re.MULTILINE)
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("drop_ins", [[], ["nvidia.conf", "idle.conf"]], ids=["alone", "drop-ins"])
def test_systemd_takes_the_unit_and_it_is_confined(tmp_path: Path, drop_ins: list[str]) -> None:
    analyze = _needs("systemd-analyze", "systemd")
    unit = tmp_path / "upscaled.service"
    shipped = ROOT / "packaging" / "systemd"
    text = (shipped / "upscaled.service").read_text("utf-8")
    # A program that is here stands in for the one that the unit starts.
    unit.write_text(text.replace("/opt/upscaled/bin/upscaled", "/bin/true"), "utf-8")
    folder = tmp_path / "upscaled.service.d"
    folder.mkdir()
    for drop_in in drop_ins:
        shutil.copyfile(shipped / drop_in, folder / drop_in)
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


def test_windows_starts_the_server_in_wsl_and_waits_for_its_jobs() -> None:
    service = ElementTree.parse(ROOT / "packaging" / "windows" / "upscaled-wsl.xml").getroot()
    assert (service.findtext("arguments") or "").startswith("--distribution Debian --user root")
    # WinSW ends it after this; running jobs have server.grace_s (25).
    assert service.findtext("stoptimeout") == "45sec"


@pytest.mark.parametrize("file", ["upscaled.yaml", "queue.yaml", "queue-webhooks.yaml"])
def test_kubernetes_takes_the_manifests(file: str) -> None:
    done = _run(_BIN / "kubernetes-validate", "--strict", _DOCKER / "kubernetes" / file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_finds_the_port_of_the_service_and_has_a_key() -> None:
    folder = _DOCKER / "kubernetes"
    parts = list(yaml.safe_load_all((folder / "upscaled.yaml").read_text("utf-8")))
    monitor = yaml.safe_load((folder / "prometheus.yaml").read_text("utf-8"))
    (service,) = [part for part in parts if part["kind"] == "Service"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert monitor["spec"]["selector"]["matchLabels"] == service["metadata"]["labels"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    # The deployment has keys, and then /metrics needs one.
    assert endpoint["authorization"]["credentials"] == {"name": "upscaled-prometheus", "key": "key"}


def _scaled_job() -> dict[str, Any]:
    text = (_DOCKER / "kubernetes" / "queue-keda.yaml").read_text("utf-8")
    return dict(yaml.safe_load(text))


def test_kubernetes_takes_the_job_that_keda_makes(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    metadata = {"name": "machine"}
    spec = _scaled_job()["spec"]["jobTargetRef"]
    job.write_text(
        yaml.safe_dump(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
        )
    )
    done = _run(_BIN / "kubernetes-validate", "--strict", job)
    assert done.returncode == 0, done.stdout + done.stderr


def test_keda_counts_the_lists_that_celery_keeps_jobs_in() -> None:
    names = [trigger["metadata"]["listName"] for trigger in _scaled_job()["spec"]["triggers"]]
    levels = [level_of(priority) for priority in (1, 0, -1)]
    assert names == [f"esrgan\x06\x16{level}" for level in levels]


def test_machines_are_started_with_options_that_exist() -> None:
    compose = yaml.safe_load((_DOCKER / "compose.queue.yaml").read_text("utf-8"))
    sky = yaml.safe_load((_DOCKER / "skypilot.yaml").read_text("utf-8"))
    pod = _scaled_job()["spec"]["jobTargetRef"]["template"]["spec"]
    run = sky["run"].removeprefix("exec ~/upscaled/bin/upscaled ")
    commands = [
        compose["services"]["machine"]["command"],
        pod["containers"][0]["args"],
        shlex.split(run.replace("$UPSCALED_METHODS", sky["envs"]["UPSCALED_METHODS"])),
    ]
    sender = yaml.safe_load((_DOCKER / "kubernetes" / "queue-webhooks.yaml").read_text("utf-8"))
    (container,) = sender["spec"]["template"]["spec"]["containers"]
    queue, *arguments = container["args"]
    assert queue == "queue"
    queue_parser().parse_args(arguments)
    for command, *arguments in commands:
        assert command == "work"
        options = parser().parse_args(arguments)
        assert options.allow_root
        # Those who stop a machine wait longer than it takes.
        assert options.grace_s < 45
    assert pod["terminationGracePeriodSeconds"] == 45
    assert compose["services"]["machine"]["stop_grace_period"] == "45s"
    assert sky["setup"].strip().endswith("'.[celery,bullmq,storage,nvml]'")
