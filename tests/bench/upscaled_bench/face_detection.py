"""The search for faces in a photograph of 12 megapixels."""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import skimage.data
from PIL import Image

from upscaled_bench.one_job import Surroundings
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import PictureSettings
from upscaled_models.face.detector import find_faces
from upscaled_models.face.faces import FaceOptions
from upscaled_models.face.reducedcopy import reduced_copy
from upscaled_protocol.configs import EsrganConfig

_ROUNDS = 5
_WIDTH, _HEIGHT = 4000, 3000


def detection_s() -> tuple[float, float]:
    """Seconds to read a JPEG file into a small copy, and to find its one face there."""
    photograph = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    enlarged = photograph.resize((_WIDTH, _WIDTH), Image.Resampling.BICUBIC)
    read_s, found_s = [], []
    with TemporaryDirectory() as folder:
        path = Path(folder, "photograph.jpg")
        enlarged.crop((0, 0, _WIDTH, _HEIGHT)).save(path)
        for _ in range(_ROUNDS):
            with open_source(
                EsrganConfig(image_path=str(path)), PictureSettings(), Surroundings()
            ) as source:
                started = time.perf_counter()
                copy = reduced_copy(source)
                read = time.perf_counter()
                faces = find_faces(copy, FaceOptions())
                found_s.append(time.perf_counter() - read)
                read_s.append(read - started)
            assert len(faces) == 1, "the photograph has one face"
    return min(read_s), min(found_s)
