"""The models that a request may name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from fastapi import APIRouter

from upscaled_http.config import Settings
from upscaled_http.dependencies import SettingsOf
from upscaled_http.messages import Model, ModelList
from upscaled_models.catalog import MODEL_FOLDERS, Catalog, default_model_dir, is_file
from upscaled_models.catalog import Model as Entry
from upscaled_protocol.messages import CONFIGS

router = APIRouter(tags=["models"])

# Factors to offer. ESRGAN, FLUX and face take any factor, and resample after the network.
_SCALES = {
    "esrgan": [2.0, 3.0, 4.0, 8.0],
    "flux": [2.0, 3.0, 4.0],
    "imagen": [2.0, 3.0, 4.0],
    "face": [1.0, 2.0, 4.0],
    "fake": [2.0, 4.0],
}

_DEFAULTS: dict[str, str] = {
    method: str(config.model_fields["model"].default) for method, config in CONFIGS.items()
}

_OF_NO_CATALOG = {
    "esrgan": "The bundled model that suits the picture: one is for clean pictures, one for JPEGs, "
    "scans and noise.",
    "imagen": "Google's Imagen on Vertex AI: it needs the server's credentials, and may be billed.",
    "fake": "For tests of a client: it answers at once, without new detail.",
}


@router.get("/models")
async def models(settings: SettingsOf) -> ModelList:
    """The models of this server's methods, with their licences and uses."""
    return ModelList(models=list(known_models(settings)))


def known_models(settings: Settings) -> Iterator[Model]:
    """Every model that a job's `model` may name."""
    model_dir = settings.workers.model_dir or default_model_dir()
    catalog = _catalog()
    defaults = {**_DEFAULTS, "esrgan": _default_of_esrgan(settings)}
    for method, description in _OF_NO_CATALOG.items():
        if method in settings.workers.methods:
            yield Model(
                name=_DEFAULTS[method],
                method=method,
                supported_scales=_SCALES[method],
                description=description,
                installed=True,
                default=defaults[method] == _DEFAULTS[method],
            )
    for entry in catalog:
        if entry.method in settings.workers.methods and entry.is_for_jobs:
            yield Model(
                name=entry.name,
                method=entry.method,
                scale=entry.scale,
                supported_scales=_SCALES[entry.method],
                licence=entry.licence,
                commercial_use=entry.commercial_use,
                description=entry.description,
                installed=_is_installed(catalog, entry, model_dir),
                default=entry.name == defaults[entry.method],
            )
    for method in MODEL_FOLDERS:
        if method in settings.workers.methods:
            for file in catalog.own_files(model_dir, method):
                yield Model(
                    name=file.stem,
                    method=method,
                    supported_scales=_SCALES[method],
                    installed=True,
                    default=file.stem == defaults[method],
                )


@cache
def _catalog() -> Catalog:
    return Catalog.load()


def _is_installed(catalog: Catalog, entry: Entry, model_dir: Path) -> bool:
    return all(is_file(one.path(model_dir)) for one in catalog.with_requirements(entry))


def _default_of_esrgan(settings: Settings) -> str:
    name = settings.defaults.model or _DEFAULTS["esrgan"]
    entry = _catalog().find(name)
    return name if entry is None else entry.name
