"""A job that restores the one face of a photograph, from file to file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import safetensors.torch
import skimage.data
from PIL import Image
from torch import Tensor

from upscaled_bench.one_job import Surroundings
from upscaled_models.engine import Settings
from upscaled_models.face.engine import FaceEngine
from upscaled_protocol.configs import FaceConfig

_ROUNDS = 2


def job_s(weights: Mapping[str, Tensor]) -> float:
    """Seconds of a job of 512 x 512 pixels, once its network is in memory."""
    with TemporaryDirectory() as folder:
        models = Path(folder, "facerestore_models")
        models.mkdir()
        safetensors.torch.save_file(dict(weights), models / "bench.safetensors")
        photograph = Path(folder, "photograph.png")
        Image.fromarray(skimage.data.astronaut()).save(photograph)  # type: ignore[no-untyped-call]
        engine = FaceEngine(Settings(model_dir=Path(folder)))
        engine.start()
        config = FaceConfig(
            image_path=str(photograph), output_path=str(Path(folder, "out.png")), model="bench"
        )
        times = []
        for _ in range(1 + _ROUNDS):  # the first one loads the network
            started = time.perf_counter()
            outcome = engine.run(config, Surroundings())
            times.append(time.perf_counter() - started)
            assert [face.restored for face in outcome.faces or []] == [True]
    return min(times[1:])
