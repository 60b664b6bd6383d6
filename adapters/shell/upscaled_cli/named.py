"""The files and models that options name: a wrong one is found before a daemon starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from upscaled_imaging.urlaccess import place_of
from upscaled_models.catalog import MODEL_FOLDERS, Catalog, default_model_dir
from upscaled_protocol.choices import DEFAULT_MODEL, FORMATS
from upscaled_protocol.errors import JobError

# The fields of a config that name a weights file.
_MODELS = ("model", "pre_model", "upscale_model", "face_model")


def check_suffix(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the output's suffix names no format, and the config names none."""
    name = config.get("output_path") or place_of(config.get("output_url") or "")
    suffix = PurePath(name).suffix.lower()
    if suffix and suffix not in FORMATS and "output_format" not in config:
        raise ValueError(
            f"{suffix} is not written here: use .png, .tif, .jpg, .webp or .avif, or give --format"
        )


def check_models(method: str, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a model that is neither known nor a file.

    A model that is known and not installed is no wrong usage: the daemon says how to get it. The
    names of the cloud's models are not known here.
    """
    if method not in MODEL_FOLDERS:
        return
    names = [config[field] for field in _MODELS if config.get(field) not in (None, DEFAULT_MODEL)]
    if not names:
        return
    catalog, model_dir = Catalog.load(), default_model_dir()
    for name in names:
        try:
            catalog.locate(name, model_dir)
        except JobError as error:
            if catalog.find(name) is None:
                raise ValueError(error.message) from None
