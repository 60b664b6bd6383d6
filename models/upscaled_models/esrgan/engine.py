"""The ESRGAN engine as the worker sees it; its networks are in `networks.py`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from upscaled_models.catalog import Catalog
from upscaled_models.engine import Context
from upscaled_models.esrgan.networkengine import NetworkEngine
from upscaled_models.picture import Enlarge
from upscaled_protocol.configs import EsrganConfig

if TYPE_CHECKING:
    from upscaled_imaging.read import Source

# The fields that say how faces are restored.
_OF_FACES = {"face_model", "face_strength"}


class EsrganEngine(NetworkEngine[EsrganConfig]):
    """Upscales and restores pictures with any single-image network that spandrel knows."""

    method = "esrgan"

    @classmethod
    def preimport(cls) -> None:
        """Import torch, spandrel and libvips."""
        super().preimport()
        import_module("upscaled_models.esrgan.networks")

    def start(self) -> None:
        """Find the device, and load those of the models to preload that are for this method.

        Raises `JobError`: the device cannot be used, or a model cannot be loaded.
        """
        self.preimport()
        from upscaled_models.esrgan.networks import Networks

        self._models = Networks(self.settings)
        catalog = Catalog.load()
        for name in self.settings.preload:
            # An unknown name is refused here, or every engine would leave it to the others.
            if catalog.method_of(name) == self.method:
                self._models.preload(name)

    def prepare(self, config: EsrganConfig, context: Context) -> Enlarge:
        """Find the networks of a job. Raises `JobError`."""
        from upscaled_models.face.restoration import Request, with_faces

        networks = self._started()
        enlarge = networks.prepare(config, context)
        if not config.faces:
            for name in sorted(_OF_FACES & config.model_fields_set):
                context.warn(f'{name} has no effect without "faces": true')
            return enlarge
        precision = config.precision if config.use_fp16 else "fp32"
        request = Request(config.face_model, config.face_strength, precision, is_step=True)
        return with_faces(enlarge, request, networks, context)

    def default_factor(self, config: EsrganConfig, source: Source, context: Context) -> float:
        """1 for a model that does not enlarge. Raises `JobError`."""
        return self._started().default_factor(config, source, context)
