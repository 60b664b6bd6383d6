"""The surroundings of the installation: folders, the environment, a Google Cloud account."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from upscaled_cli.doctor.finding import Finding

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


def folders(model_dir: Path) -> Iterator[Finding]:
    """The folders that must be writable."""
    yield _writable("models", model_dir, "MODEL_CACHE_DIR")
    yield _temporary()
    if os.environ.get("OUTPUT_DIR"):
        yield _writable("output", Path(os.environ["OUTPUT_DIR"]), "OUTPUT_DIR")


def environment() -> Iterator[Finding]:
    """The variables that upscaled reads."""
    for name in _ENVIRONMENT:
        value = os.environ.get(name)
        if value:
            yield Finding("environment", "ok", f"{name}={value}")
    for name in ("DEFAULT_DPI", "DEFAULT_UPSCALE_FACTOR"):
        value = os.environ.get(name)
        if value and not re.fullmatch(r"\d+(\.\d+)?", value):
            text = f"{name} is no number: {value}"
            yield Finding("environment", "problem", text, f"correct or unset {name}")


def imagen() -> Iterator[Finding]:
    """The account for Imagen jobs, without its secrets."""
    try:
        from upscaled_models.imagen.account import (
            DEFAULT_REGION,
            KEY_FILE_VARIABLE,
            credentials_in_sight,
            unusable,
        )
        from upscaled_models.registry import is_installed
    except ImportError:  # a finding names the missing library
        return
    if not is_installed("imagen"):
        return
    region = os.environ.get("GCP_REGION") or DEFAULT_REGION
    if project := os.environ.get("GCP_PROJECT_ID"):
        yield Finding("imagen", "ok", f"project {project}, region {region}")
    else:
        text = "no project: each job must give gcp_project_id"
        yield Finding("imagen", "note", text, "set GCP_PROJECT_ID")
    if seen := credentials_in_sight():
        yield Finding("imagen", "ok", f"credentials: {seen}; not tried here")
    else:
        is_wrong = bool(os.environ.get(KEY_FILE_VARIABLE))
        yield Finding("imagen", "problem" if is_wrong else "note", unusable().message)


def _temporary() -> Finding:
    try:
        folder = tempfile.gettempdir()
    except OSError as error:  # it has tried TMPDIR, /tmp, /var/tmp and others
        advice = "set TMPDIR to a folder that has room and can be written"
        return Finding("temporary", "problem", str(error.strerror), advice)
    return _writable("temporary", Path(folder), "TMPDIR")


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
