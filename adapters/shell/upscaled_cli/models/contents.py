"""Reads a weights file as its engine does: as data, never as code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from upscaled_models.catalog import NETWORK_SUFFIXES

_GGUF = b"GGUF"


@dataclass(frozen=True)
class Contents:
    """The content of a weights file. field: of a job, for its name. suffix: for its name. note: on
    its licence."""

    method: str
    field: str
    suffix: str
    facts: str
    note: str | None = None


def read_contents(path: Path, model_dir: Path) -> Contents:
    """The file's content. Raises `JobError`, with the sentence of a job that uses the file."""
    with path.open("rb") as file:
        head = file.read(len(_GGUF) + 5)
    return _flux(path, model_dir) if head.startswith(_GGUF) else _network(path, head)


def _network(path: Path, head: bytes) -> Contents:
    from upscaled_models.esrgan.loading import as_face_network, as_picture_network, read_model
    from upscaled_models.esrgan.morearchitectures import licence_note

    model = read_model(path)
    suffix = path.suffix.lower()
    if suffix not in NETWORK_SUFFIXES:  # the engines read every suffix, but search for these
        suffix = ".safetensors" if head[8:9] == b"{" else ".pth"
    if model.purpose == "FaceSR":
        architecture = as_face_network(path, model).architecture.name
        facts = f"{architecture}, restores faces"
        return Contents("face", "model", suffix, facts, licence_note(architecture))
    network = as_picture_network(path, model)
    colours = "RGB" if network.input_channels == 3 else "grayscale"
    architecture = network.architecture.name
    facts = f"{architecture}, {network.scale}x, {colours}"
    field = "model" if network.scale > 1 else "pre_model"
    return Contents("esrgan", field, suffix, facts, licence_note(architecture))


def _flux(path: Path, model_dir: Path) -> Contents:
    from upscaled_models.engine import Settings
    from upscaled_models.flux.engine import FluxEngine
    from upscaled_models.flux.files import Files

    FluxEngine(Settings(model_dir=model_dir)).start()  # raises if the extra is not installed
    from upscaled_models.flux.transformer import check_transformer

    others = (model_dir,) * 5  # not used
    check_transformer(Files(model_dir, path, *others))
    note = "FLUX.1-dev's licence is non-commercial"
    return Contents("flux", "model", ".gguf", "a FLUX.1 transformer, GGUF", note)
