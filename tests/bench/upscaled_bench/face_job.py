"""A job that restores the one face of a photograph, from file to file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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


@contextmanager
def face_job(weights: Mapping[str, Tensor]) -> Iterator[Callable[[], None]]:
    """Runs a job of 512 x 512 pixels each time it is called. Its network is in memory."""
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

        def run() -> None:
            outcome = engine.run(config, Surroundings())
            assert [face.restored for face in outcome.faces or []] == [True]

        run()
        yield run
