"""Which engine serves which method. An engine is imported when its method is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from upscaled_models.engine import Engine


@dataclass(frozen=True)
class _Entry:
    """Where an engine is, and the packages of its extra that it cannot do without.

    A package inside another comes after it: looking for it imports the outer one.
    """

    engine: str
    needs: tuple[str, ...] = ()


_ENGINES = {
    "esrgan": _Entry("upscaled_models.esrgan.engine:EsrganEngine"),
    "flux": _Entry(
        "upscaled_models.flux.engine:FluxEngine",
        ("accelerate", "diffusers", "gguf", "tokenizers", "transformers"),
    ),
    "imagen": _Entry(
        "upscaled_models.imagen.engine:ImagenEngine", ("google", "google.genai", "aiohttp")
    ),
    "face": _Entry("upscaled_models.face.engine:FaceEngine", ("retinaface",)),
    "fake": _Entry("upscaled_models.fake:FakeEngine"),
}


def known_methods() -> tuple[str, ...]:
    """Every method that has an engine, the fake one too."""
    return tuple(_ENGINES)


def default_methods() -> tuple[str, ...]:
    """The methods that are served if none are named.

    Without the fake one, which ends its worker if a job asks for that.
    """
    return tuple(method for method in _ENGINES if method != "fake" and is_installed(method))


def engine_class(method: str) -> type[Engine[Any]]:
    """The engine of a method. Raises `KeyError` if the method has none."""
    module, _, name = _ENGINES[method].engine.partition(":")
    engine: type[Engine[Any]] = getattr(import_module(module), name)
    return engine


def is_installed(method: str) -> bool:
    """True if the packages that the method needs are there. Does not import them."""
    return all(find_spec(package) is not None for package in _ENGINES[method].needs)
