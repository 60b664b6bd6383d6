"""The face engine as the worker sees it; what it does with a picture is in `restoration.py`."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import TYPE_CHECKING

from upscaled_models.engine import Context
from upscaled_models.esrgan.networkengine import NetworkEngine
from upscaled_models.picture import Enlarge, Enlargement
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import DEFAULT_FACE_MODEL, EsrganConfig, FaceConfig
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from upscaled_imaging.dimensions import Plan
    from upscaled_imaging.read import Source

# The fields that mean the same for an ESRGAN job.
_SHARED = {"image_path", "image_base64", "image_url", "precision", "tile_size", "upscale_model"}


class FaceEngine(NetworkEngine[FaceConfig]):
    """Restores the faces of pictures, and enlarges the pictures as ESRGAN jobs do."""

    method = "face"

    @classmethod
    def preimport(cls) -> None:
        """Import torch, spandrel and libvips."""
        super().preimport()
        import_module("upscaled_models.face.restoration")

    def start(self) -> None:
        """Find the device, and load those of the models to preload that are for this method.

        Raises `JobError`: the detector is not installed, the device cannot be used, or a model
        cannot be loaded.
        """
        if not is_installed(self.method):
            from upscaled_models.face.detectorweights import INSTALL

            raise JobError(
                ErrorCode.UNKNOWN_METHOD, f"the face detector is not installed: run `{INSTALL}`"
            )
        self.preimport()
        from upscaled_models.esrgan.networks import Networks
        from upscaled_models.face.models import preload

        self._models = Networks(self.settings)
        for name in self.settings.preload:
            model = self._models.catalog.find(name)
            if model is not None and model.method == self.method:
                preload(self._models, name)

    def prepare(self, config: FaceConfig, context: Context) -> Enlarge:
        """Find the networks of a job. Raises `JobError`."""
        from upscaled_models.face.faces import FaceOptions
        from upscaled_models.face.plainrows import PlainRows
        from upscaled_models.face.restoration import Request, with_faces

        networks = self._started()
        enlarge = networks.prepare(_enlargement(config), context)

        def enlarge_if_larger(source: Source, plan: Plan) -> AbstractContextManager[Enlargement]:
            if plan.scaled.width <= source.width and plan.scaled.height <= source.height:
                return nullcontext(PlainRows(source, context, networks.device))
            return enlarge(source, plan)

        options = FaceOptions(
            threshold=config.detector_threshold,
            only_largest=config.only_largest,
            min_face_px=config.min_face_px,
            max_faces=config.max_faces,
        )
        request = Request(config.model, config.strength, config.precision, options)
        return with_faces(enlarge_if_larger, request, networks, context)

    def lacks(self) -> str | None:
        """A face model: none comes with the package."""
        if self.models():
            return None
        return f"no face model is installed: run `upscaled models pull {DEFAULT_FACE_MODEL}`"


def _enlargement(config: FaceConfig) -> EsrganConfig:
    """The ESRGAN job that enlarges the picture, by its default model if the job names none."""
    return EsrganConfig(**config.model_dump(include=_SHARED, exclude_none=True))
