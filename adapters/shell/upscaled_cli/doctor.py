"""`upscaled doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from upscaled_cli import exits
from upscaled_cli.channel import Message
from upscaled_cli.client import DAEMON, Client, DaemonGoneError
from upscaled_cli.download import sha256_of
from upscaled_models.catalog import Catalog, default_model_dir

_EXAMPLES = """examples:
  upscaled doctor
  upscaled doctor --json

exit status: 0 everything needed is there, 1 something is missing, 2 wrong usage, 130 interrupted.
"""

# Loading torch from a cold disk on a small machine takes a while.
_LOAD_TIMEOUT_S = 180

_ENVIRONMENT = (
    "MODEL_CACHE_DIR",
    "XDG_CACHE_HOME",
    "OUTPUT_DIR",
    "DEFAULT_DPI",
    "DEFAULT_UPSCALE_FACTOR",
    "UPSCALED_METHODS",
    "UPSCALED_METRICS_ADDRESS",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "GCP_PROJECT_ID",
    "GCP_REGION",
)

# A picture of 8x8 gray pixels, as PNG.
_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR42mNIgAIGyhgAYHUYAeOSAeQAAAAASUVORK5C"
    "YII="
)

_TORCH_FACTS = """
import json, torch
gpu = torch.cuda.is_available()
cpu = torch.cpu.get_capabilities()
print(json.dumps({
    "gpu": torch.cuda.get_device_name(0) if gpu else None,
    "gpu_gb": torch.cuda.get_device_properties(0).total_memory / 2**30 if gpu else None,
    "bf16": bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16")),
    "cuda_build": torch.version.cuda,
}))
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: Literal["ok", "note", "problem"]
    text: str
    fix: str | None = None


def main(argv: Sequence[str], daemon: Sequence[str] = DAEMON) -> int:
    """Examine and report; the exit status."""
    options = parser().parse_args(argv)
    examinations: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _libraries,
        _machine,
        lambda: _models(options.model_dir),
        _folders,
        _extras,
        _environment,
        lambda: _picture(daemon),
    ]
    findings = []
    for examine in examinations:
        for finding in examine():
            findings.append(finding)
            if not options.json:
                _show(finding)
    problems = sum(finding.state == "problem" for finding in findings)
    if options.json:
        print(json.dumps({"ok": not problems, "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        print(f"\n{problems} problem{'s' * (problems != 1)}")
    return exits.FAILED if problems else exits.OK


def _show(finding: Finding) -> None:
    state = finding.state.upper() if finding.state == "problem" else finding.state
    print(f"{state:8} {finding.name:12} {finding.text}")
    if finding.fix:
        print(f"{'':21} -> {finding.fix}")
    sys.stdout.flush()


def _python() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{sys.version.split()[0]}, {sys.executable}")


def _libraries() -> Iterator[Finding]:
    # Side by side: most of the time goes into reading files.
    with ThreadPoolExecutor() as pool:
        yield from pool.map(
            lambda arguments: _loads(*arguments),
            [
                ("torch", _TORCH_FACTS, "torch", "torchvision"),
                ("spandrel", "import upscaled_models.esrgan.loading", "spandrel", "safetensors"),
                ("libvips", "import upscaled_models.imaging.libvips", "pyvips", "pyvips-binary"),
                ("protocol", "import upscaled_protocol.codec", "pydantic", "orjson"),
                ("psutil", "import psutil", "psutil"),
            ],
        )


def _loads(name: str, code: str, *distributions: str) -> Finding:
    missing = [distribution for distribution in distributions if _version(distribution) is None]
    if missing:
        text = f"{', '.join(missing)} not installed"
        return Finding(name, "problem", text, f"pip install {' '.join(missing)}")
    versions = ", ".join(
        f"{distribution} {_version(distribution)}" for distribution in distributions
    )
    _, error = _run(code)
    if error is None:
        return Finding(name, "ok", f"{versions}: loads")
    return Finding(
        name,
        "problem",
        f"{versions}: does not load: {error}",
        f"pip install --force-reinstall {' '.join(distributions)}",
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _run(code: str) -> tuple[str, str | None]:
    """Output and error of Python code in a process of its own: a bad library may crash it."""
    try:
        done = subprocess.run(
            # -P: nothing is to be imported from the working folder.
            [sys.executable, "-P", "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=_LOAD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return "", f"nothing happens for {_LOAD_TIMEOUT_S} s"
    if done.returncode == 0:
        return done.stdout, None
    if done.returncode < 0:
        return "", f"the process was killed by signal {-done.returncode}"
    return "", (done.stderr.strip().splitlines() or ["no message"])[-1]


def _machine() -> Iterator[Finding]:
    try:
        import psutil

        memory = f", {psutil.virtual_memory().total / 2**30:.1f} GiB of memory"
    except ImportError:  # told above
        memory = ""
    yield Finding("machine", "ok", f"{len(os.sched_getaffinity(0))} cores{memory}")
    output, error = _run(_TORCH_FACTS)
    if error is not None:
        return  # told above
    facts = json.loads(output)
    if facts["gpu"]:
        yield Finding("device", "ok", f"{facts['gpu']}, {facts['gpu_gb']:.1f} GiB, fp16")
        return
    precision = "bf16 in hardware" if facts["bf16"] else "fp32, for bf16 is not in hardware"
    if Path("/proc/driver/nvidia/version").exists():
        missing = "this torch is a CPU build" if not facts["cuda_build"] else "torch cannot use it"
        yield Finding(
            "device",
            "note",
            f"cpu, {precision}; there is an NVIDIA driver, but {missing}",
            "pip install --force-reinstall torch torchvision, in the build for your CUDA; "
            "look at CUDA_VISIBLE_DEVICES",
        )
    else:
        yield Finding("device", "ok", f"cpu, {precision}")


def _models(model_dir: Path) -> Iterator[Finding]:
    installed = []
    for model in Catalog.load():
        path = model.path(model_dir)
        # Not `path.is_file()`, which raises where a folder may not be looked into.
        there = os.path.isfile(path)  # noqa: PTH113
        if model.bundled:
            if there and sha256_of(path) == model.sha256:
                yield Finding("weights", "ok", f"{model.name}: checksum is right")
            else:
                what = "another checksum than published" if there else "missing"
                yield Finding(
                    "weights",
                    "problem",
                    f"{model.name}: {what}, {path}",
                    "pip install --force-reinstall upscaled",
                )
        elif there and model.size_bytes not in (None, path.stat().st_size):
            yield Finding(
                "models",
                "problem",
                f"{model.name}: {path} is not of the published size",
                f"upscaled models pull {model.name}",
            )
        elif there:
            installed.append(model.name)
    yield Finding("models", "ok", f"{model_dir}: {', '.join(installed) or 'none pulled'}")
    yield _writable("models", model_dir, "MODEL_CACHE_DIR")


def _folders() -> Iterator[Finding]:
    yield _writable("temporary", Path(tempfile.gettempdir()), "TMPDIR")
    if os.environ.get("OUTPUT_DIR"):
        yield _writable("output", Path(os.environ["OUTPUT_DIR"]), "OUTPUT_DIR")


def _writable(name: str, folder: Path, variable: str) -> Finding:
    existing = next(
        path
        for path in (folder, *folder.absolute().parents)
        if os.path.exists(path)  # noqa: PTH110 - `path.exists()` raises as `is_file` does
    )
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return Finding(name, "ok", f"{folder} can be written")
    return Finding(
        name,
        "problem",
        f"{folder} cannot be written by uid {os.getuid()}",
        f"chown or chmod it, or set {variable} to a folder of yours",
    )


def _extras() -> Iterator[Finding]:
    wanted: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("upscaled") or []:
        extra = re.search(r"extra == ['\"](.+?)['\"]", requirement)
        distribution = re.match(r"[\w.-]+", requirement)
        if extra and distribution:
            wanted.setdefault(extra[1], []).append(distribution[0])
    for group, distributions in wanted.items():
        missing = [name for name in distributions if _version(name) is None]
        if missing:
            fix = f"pip install 'upscaled[{group}]'"
            yield Finding(f"[{group}]", "note", f"without {', '.join(missing)}", fix)
        else:
            yield Finding(f"[{group}]", "ok", "installed")


def _environment() -> Iterator[Finding]:
    for name in _ENVIRONMENT:
        value = os.environ.get(name)
        if value:
            yield Finding("environment", "ok", f"{name}={value}")
    for name in ("DEFAULT_DPI", "DEFAULT_UPSCALE_FACTOR"):
        value = os.environ.get(name)
        if value and not re.fullmatch(r"\d+(\.\d+)?", value):
            text = f"{name} is no number: {value}"
            yield Finding("environment", "problem", text, f"unset or mend {name}")


def _picture(daemon: Sequence[str]) -> Iterator[Finding]:
    """The proof of it all: a picture goes through the daemon."""
    answer: Message = {}
    details = []
    try:
        with Client([*daemon, "--methods", "esrgan"]) as client:
            client.submit("esrgan", {"image_base64": _PICTURE, "output_base64": True})
            for answer in client.events():
                if answer.get("message") == "degraded":
                    details.append(str(answer.get("detail")))
    except DaemonGoneError as error:
        details.append(str(error))
    if answer.get("type") == "result":
        yield Finding("picture", "ok", f"upscaled in {answer['processing_time']:.1f} s")
        return
    details.append(str(answer.get("error", "")))
    reason = "; ".join(filter(None, details))
    fix = "mend what is told above; else run `upscaled upscale -v` on a picture and read the log"
    yield Finding("picture", "problem", f"none could be upscaled: {reason}", fix)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled doctor",
        description="Say what is here, what is missing, and how to get it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--json", action="store_true", help="for programs")
    arguments.add_argument(
        "--model-dir",
        type=Path,
        default=default_model_dir(),
        help="default: MODEL_CACHE_DIR or %(default)s",
    )
    return arguments
