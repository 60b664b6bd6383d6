"""Which engine serves which method. Engines are imported only where their method is asked for."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from upscaled_models.engine import Engine

_ENGINES = {
    "esrgan": "upscaled_models.esrgan.engine:EsrganEngine",
    "flux": "upscaled_models.flux.engine:FluxEngine",
    "imagen": "upscaled_models.imagen.engine:ImagenEngine",
    "fake": "upscaled_models.fake:FakeEngine",
}


# What an extra brings that its engine cannot do without, from the outermost package on.
_EXTRAS = {
    "flux": ("accelerate", "diffusers", "gguf", "tokenizers", "transformers"),
    "imagen": ("google", "google.genai", "aiohttp"),
}


def is_installed(method: str) -> bool:
    """Whether the extra is there that the method needs, if any. Looks for it without importing."""
    return all(find_spec(package) is not None for package in _EXTRAS.get(method, ()))


# The fake engine is served only where it is named: it takes its worker down on request.
DEFAULT_METHODS = tuple(method for method in _ENGINES if method != "fake" and is_installed(method))


def engine_class(method: str) -> type[Engine[Any]]:
    """The engine of a method. Raises `KeyError` where the method has none."""
    module, _, name = _ENGINES[method].partition(":")
    engine: type[Engine[Any]] = getattr(import_module(module), name)
    return engine


def known_methods() -> tuple[str, ...]:
    """Every method that has an engine, the fake one too."""
    return tuple(_ENGINES)
