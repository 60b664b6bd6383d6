"""The weights: those of the installation, those that were pulled, and FLUX file by file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from upscaled_cli.doctor.finding import Finding
from upscaled_cli.download import sha256_of
from upscaled_models.catalog import Catalog, Model, is_file


def bundled(catalog: Catalog) -> Iterator[Finding]:
    """The bundled models."""
    for model in catalog:
        if not model.bundled:
            continue
        path = model.path(Path())
        if is_file(path) and sha256_of(path) == model.sha256:
            yield Finding("weights", "ok", f"{model.name}: checksum is right")
        else:
            what = "another checksum than published" if is_file(path) else "missing"
            text = f"{model.name}: {what}, {path}"
            yield Finding("weights", "problem", text, "install upscaled again")


def pulled(catalog: Catalog, model_dir: Path) -> Iterator[Finding]:
    """The catalogue's models in the model folder, without FLUX."""
    installed = []
    for model in catalog:
        path = model.path(model_dir)
        if model.bundled or model.method == "flux" or not is_file(path):
            continue
        if _has_published_size(model, path):
            installed.append(model.name)
        else:
            yield _damaged("models", model, path)
    yield Finding("models", "ok", f"{model_dir}: {', '.join(installed) or 'none pulled'}")


def flux(catalog: Catalog, model_dir: Path) -> Iterator[Finding]:
    """Each file that FLUX jobs need, if the extra or any of the files is installed."""
    try:
        from upscaled_models.flux.files import parts
        from upscaled_models.registry import is_installed
    except ImportError:  # a finding names the missing library
        return
    found = parts(catalog, model_dir)
    if not is_installed("flux") and not any(part.is_there for part in found):
        return
    for part in found:
        model = catalog.find(part.path.name)
        if not part.is_there:
            text = f"{part.name}: missing, looked for as {part.path}"
            yield Finding("flux", "note", text, f"upscaled models pull {part.model}")
        elif model is not None and not _has_published_size(model, part.path):
            if model.method == "flux":  # `pulled` reports the others
                yield _damaged("flux", model, part.path)
        else:
            yield Finding("flux", "ok", f"{part.name}: {part.path}")


def faces(catalog: Catalog, model_dir: Path) -> Iterator[Finding]:
    """A model for faces, if the extra is installed; `pulled` names those that are there."""
    from upscaled_models.registry import is_installed

    models = [model for model in catalog if model.method == "face"]
    if is_installed("face") and not any(is_file(model.path(model_dir)) for model in models):
        fix = f"upscaled models pull {models[0].name}"
        yield Finding("face", "note", "no model that restores faces is installed", fix)


def _has_published_size(model: Model, path: Path) -> bool:
    return model.size_bytes in (None, path.stat().st_size)


def _damaged(name: str, model: Model, path: Path) -> Finding:
    text = f"{model.name}: {path} is not of the published size, {model.size_bytes} bytes"
    return Finding(name, "problem", text, f"upscaled models pull {model.name}")
