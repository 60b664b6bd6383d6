"""Faces in pictures of every kind and size: beside them the plain upscale stays, to the bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image

from face_jobs import give_faces, negative, read, restore_as, same
from opened_pictures import ORIENTATION
from recording import RecordingContext
from tiny_faces import face_at, face_model
from tiny_networks import compact, save
from upscaled_imaging.read import open_source
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.face.alignment import align
from upscaled_models.face.engine import FaceEngine
from upscaled_models.face.faces import Face
from upscaled_models.face.mask import mask_at
from upscaled_protocol.configs import EsrganConfig, FaceConfig

RNG = np.random.default_rng(8)
HEIGHT, WIDTH = 57, 71
# The first two overlap, and the border cuts the last two.
FACES = [face_at(20, 18, 24), face_at(29, 24, 22), face_at(48, 50, 30), face_at(4, 40, 14)]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("models")
    face_model(folder)
    (folder / "upscale_models").mkdir()
    save(compact(scale=2), folder / "upscale_models" / "tiny.safetensors")
    return Settings(model_dir=folder)


@pytest.fixture(scope="module")
def esrgan_engine(settings: Settings) -> EsrganEngine:
    engine = EsrganEngine(settings)
    engine.start()
    return engine


@pytest.fixture(scope="module")
def face_engine(settings: Settings) -> FaceEngine:
    engine = FaceEngine(settings)
    engine.start()
    return engine


def picture(path: Path, kind: str) -> Path:
    """A picture of noise; its name says of what kind."""
    values = RNG.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    if kind == "cmyk":
        path = path / "in.jpg"
        Image.fromarray(values, "CMYK").save(path, quality=95)
    elif kind.startswith("turned"):
        exif = Image.Exif()
        exif[ORIENTATION] = int(kind.removeprefix("turned "))
        path = path / "in.png"
        Image.fromarray(values[:, :, :3]).save(path, exif=exif)
    else:
        bands, bits = {"gray": (1, 8), "gray16 alpha": (2, 16), "rgb16 alpha": (4, 16)}[kind]
        path = path / "in.png"
        deep = RNG.integers(1, 1 << bits, (HEIGHT, WIDTH, bands), np.uint16)
        pixels = deep.astype(np.uint8 if bits == 8 else np.uint16)
        name = {1: "b-w", 2: "grey16", 4: "rgb16"}[bands]
        pyvips.Image.new_from_array(pixels, interpretation=name).write_to_file(str(path))
    return path


def masked(shape: Sequence[int], faces: Sequence[Face], scale: float) -> np.ndarray:
    """Where a picture of that shape has the mask of a face."""
    height, width = shape[:2]
    inside = np.zeros((height, width), bool)
    for face in faces:
        to_crop = align(face.points * scale)[0]
        inside |= mask_at(to_crop.of_pixels(0, 0, width, height)) > 0
    return inside


KINDS = ("cmyk", "turned 3", "turned 5", "turned 6", "gray", "gray16 alpha", "rgb16 alpha")


# 2 is the network's own factor; for 3 its rows are resampled. WebP has 8 bits, here without loss.
@pytest.mark.parametrize(
    ("kind", "factor", "suffix"),
    [
        *((kind, 3, ".png") for kind in KINDS),
        *((kind, 3, ".webp") for kind in KINDS if "16" in kind),
        ("rgb16 alpha", 2, ".png"),
        ("rgb16 alpha", 2, ".webp"),
    ],
)
def test_outside_the_masks_the_plain_upscale_stays_to_the_bit(
    tmp_path: Path,
    esrgan_engine: EsrganEngine,
    monkeypatch: Any,
    kind: str,
    factor: int,
    suffix: str,
) -> None:
    path = picture(tmp_path, kind)
    give_faces(monkeypatch, FACES)

    def upscaled(**fields: Any) -> np.ndarray:
        config = EsrganConfig(
            image_path=str(path),
            output_path=str(tmp_path / f"out{suffix}"),
            quality=100 if suffix == ".webp" else None,
            model="tiny",
            upscale_factor=factor,
            **fields,
        )
        return read(esrgan_engine.run(config, RecordingContext()))

    plain = upscaled()
    restore_as(monkeypatch, same)
    assert np.array_equal(upscaled(faces=True), plain)
    restore_as(monkeypatch, negative)
    changed = (upscaled(faces=True) != plain).any(2)
    assert changed.mean() > 0.1
    assert not (changed & ~masked(plain.shape, FACES, factor)).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_keeps_its_size_keeps_what_no_mask_covers(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any, kind: str
) -> None:
    path = picture(tmp_path, kind)
    config = FaceConfig(image_path=str(path), output_path=str(tmp_path / "out.png"))
    with open_source(config, face_engine.settings, RecordingContext()) as source:
        rows = source.rows(source.height).copy()
    give_faces(monkeypatch, FACES)
    restore_as(monkeypatch, same)
    assert np.array_equal(read(face_engine.run(config, RecordingContext())), rows)
    restore_as(monkeypatch, negative)
    changed = (read(face_engine.run(config, RecordingContext())) != rows).any(2)
    assert changed.mean() > 0.1
    assert not (changed & ~masked(rows.shape, FACES, 1)).any()


@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (2, 1), (1, 700), (700, 1), (13, 11), (30_000, 200), (200, 30_000)],
)
def test_a_picture_of_any_size_keeps_what_no_mask_covers(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any, width: int, height: int
) -> None:
    pixels = np.resize(RNG.integers(1, 256, 997, np.uint8), (height, width))
    Image.fromarray(pixels).save(tmp_path / "in.tif")
    faces = [
        face_at(0, 0, 40),
        face_at(width, height, 90),
        face_at(width / 2, height / 2, 600),
        face_at(width / 3, height / 3, 2),
    ]
    give_faces(monkeypatch, faces)

    def restored() -> np.ndarray:
        outcome = face_engine.run(
            FaceConfig(image_path=str(tmp_path / "in.tif"), output_path=str(tmp_path / "out.tif")),
            RecordingContext(),
        )
        return read(outcome)[:, :, 0]

    restore_as(monkeypatch, same)
    assert np.array_equal(restored(), pixels)
    crops = restore_as(monkeypatch, np.zeros_like)
    changed = restored() != pixels
    assert len(crops) == len(faces)
    assert changed.any()
    assert not (changed & ~masked(pixels.shape, faces, 1)).any()


def test_the_file_is_the_same_to_the_bit_for_any_number_of_threads(
    tmp_path: Path, esrgan_engine: EsrganEngine, monkeypatch: Any
) -> None:
    give_faces(monkeypatch, FACES)
    restore_as(monkeypatch, negative)
    path = picture(tmp_path, "rgb16 alpha")

    def compute_with(count: int) -> None:
        # The number is that of a thread, and jobs are computed in one of their own.
        esrgan_engine.compute(lambda: torch.set_num_threads(count))

    def file(count: int) -> bytes:
        compute_with(count)
        config = EsrganConfig(
            image_path=str(path),
            output_path=str(tmp_path / "out.png"),
            model="tiny",
            upscale_factor=3,
            faces=True,
        )
        esrgan_engine.run(config, RecordingContext())
        return (tmp_path / "out.png").read_bytes()

    threads = torch.get_num_threads()
    try:
        assert file(1) == file(4) == file(4) == file(3)
    finally:
        compute_with(threads)


@pytest.mark.parametrize(("field", "value"), [("face_strength", 0.5), ("face_model", "other")])
def test_a_field_for_faces_is_told_if_the_job_restores_none(
    tmp_path: Path, esrgan_engine: EsrganEngine, field: str, value: float | str
) -> None:
    path = picture(tmp_path, "gray")
    fields: dict[str, Any] = {"model": "tiny", "upscale_factor": 2, field: value}
    context = RecordingContext()
    output_path = str(tmp_path / "out.png")
    config = EsrganConfig(image_path=str(path), output_path=output_path, **fields)
    esrgan_engine.run(config, context)
    assert context.warnings == [f'{field} has no effect without "faces": true']
