"""The face networks in memory, in the precision of a job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from upscaled_models.device.out_of_memory import as_job_error, is_out_of_memory
from upscaled_models.device.precision import choose_dtype
from upscaled_models.engine import Context
from upscaled_models.esrgan.loading import load_face_descriptor
from upscaled_models.esrgan.morearchitectures import licence_note
from upscaled_models.esrgan.networks import Networks
from upscaled_models.face.faces import Floats
from upscaled_models.face.networks import FaceNetwork
from upscaled_models.memory import file_status, file_version
from upscaled_protocol.errors import ErrorCode, JobError


@contextlib.contextmanager
def face_network(models: Networks, path: Path, dtype: torch.dtype) -> Iterator[FaceNetwork]:
    """Hold the network of that file in memory. Raises `JobError`."""
    status = file_status(path)

    def load() -> FaceNetwork:
        return models.compute(lambda: FaceNetwork(load_face_descriptor(path), models.device, dtype))

    # A file that was replaced is another model.
    key = ("face", path, file_version(status), dtype)
    with models.models.use(key, path.stem, status.st_size, load) as network:
        yield network


def preload(models: Networks, name: str) -> None:
    """Load a model in the precision that most jobs will ask for. Raises `JobError`."""
    path = models.catalog.locate(name, models.settings.model_dir)
    dtype, _ = choose_dtype("auto", models.device, bits=8)
    with face_network(models, path, dtype):
        pass


class Restorer:
    """Restores the faces of one job with the network of one file.

    dtype: what it computes in; float32 after half precision failed.
    """

    def __init__(self, models: Networks, path: Path, dtype: torch.dtype, context: Context) -> None:
        self.dtype = dtype
        self._models = models
        self._path = path
        self._context = context
        self._held = contextlib.ExitStack()

    @contextlib.contextmanager
    def loaded(self) -> Iterator[None]:
        """Hold the network until the context is left. Raises `JobError`."""
        with self._held:
            self._load()
            if note := licence_note(self._network.architecture):
                self._context.warn(note)
            yield

    def restore(self, crop: Floats) -> Floats:
        """A face, (512, 512, 3) RGB, 0 to 1, to the same: restored. `loaded` comes before.

        Raises `JobError`: model_corrupt if the network gives no numbers, out_of_memory.
        """
        face = self._restored(crop)
        if not np.isfinite(face).all() and self.dtype != torch.float32:
            self._context.warn("half precision failed with this face model: fp32 was used")
            self.dtype = torch.float32
            self._load()
            face = self._restored(crop)
        if not np.isfinite(face).all():
            raise JobError(
                ErrorCode.MODEL_CORRUPT,
                f"{self._path.name} gave a face that holds no numbers: fetch the file again, or "
                "choose another model",
            )
        return face

    def _load(self) -> None:
        network = face_network(self._models, self._path, self.dtype)
        with self._context.phase("load"):
            self._network = self._held.enter_context(network)

    def _restored(self, crop: Floats) -> Floats:
        with self._context.phase("inference"):
            try:
                return self._network.restore(crop)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            self._models.free_memory()
            with as_job_error():
                return self._network.restore(crop)
