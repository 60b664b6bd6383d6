"""`upscaled models list`: every known model, and the user's own files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from upscaled_cli import exits
from upscaled_cli.partfile import part_of
from upscaled_models.catalog import MODEL_FOLDERS, Catalog, Model, is_file


@dataclass(frozen=True)
class Listed:
    """A line of `list`. Of the user's own files only some fields are known."""

    name: str
    installed: str  # bundled, yes, own, partial, damaged (not of the published size), no
    path: str
    method: str
    architecture: str | None = None
    scale: int | None = None
    size_bytes: int | None = None
    licence: str | None = None
    commercial_use: bool | None = None
    description: str | None = None


def list_models(catalog: Catalog, model_dir: Path, as_json: bool) -> int:
    """Print every known model with its licence and its use, and the user's own files in the model
    folder."""
    rows = [_listed(model, model_dir) for model in catalog]
    rows += [
        Listed(path.stem, "own", str(path), method, size_bytes=path.stat().st_size)
        for method in MODEL_FOLDERS
        for path in catalog.own_files(model_dir, method)
    ]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return exits.OK
    print(f"{'NAME':26}  {'INSTALLED':9}  {'METHOD':6}  {'SCALE':5}  {'SIZE':>8}  LICENCE")
    for row in rows:
        scale = f"{row.scale}x" if row.scale else "-"
        forbids = " (non-commercial)" if row.commercial_use is False else ""
        print(
            f"{row.name:26}  {row.installed:9}  {row.method:6}  {scale:5}  "
            f"{size_text(row.size_bytes):>8}  {row.licence or 'unknown'}{forbids}"
        )
        if row.description:
            print(f"    {row.description}")
    print(f"\nthe model folder is {model_dir}")
    return exits.OK


def installed(model: Model, model_dir: Path) -> str:
    """The state of its file, as a word of `Listed.installed`."""
    path = model.path(model_dir)
    if is_file(path):
        if model.size_bytes not in (None, path.stat().st_size):
            return "damaged"
        return "bundled" if model.bundled else "yes"
    return "partial" if is_file(part_of(path)) else "no"


def licence_text(model: Model) -> str:
    """Its licence, with what that forbids."""
    use = "" if model.commercial_use else ": NON-COMMERCIAL USE ONLY"
    return f"{model.licence}{use}"


def size_text(size_bytes: int | None) -> str:
    """A size in MB or GB, for people."""
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def _listed(model: Model, model_dir: Path) -> Listed:
    return Listed(
        name=model.name,
        installed=installed(model, model_dir),
        path=str(model.path(model_dir)),
        method=model.method,
        architecture=model.architecture,
        scale=model.scale,
        size_bytes=model.size_bytes,
        licence=model.licence,
        commercial_use=model.commercial_use,
        description=model.description,
    )
