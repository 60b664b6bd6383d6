"""The FLUX engine as the worker sees it; its models are in `pipeline.py`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from upscaled_models.catalog import Catalog
from upscaled_models.engine import Context, Settings
from upscaled_models.flux.files import what_is_missing
from upscaled_models.local import LocalEngine
from upscaled_models.picture import Enlarge
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import FluxConfig
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from upscaled_models.flux.pipeline import Pipeline

# diffusers and transformers, from a cold disk.
_IMPORT_BUDGET_S = 300.0


class FluxEngine(LocalEngine[FluxConfig]):
    """Upscales pictures with FLUX.1-dev over an ESRGAN model.

    It loads and imports nothing before its first job, unless a model of it is preloaded: diffusers
    takes seconds to import, and memory that most workers never need.
    """

    method = "flux"

    _models: Pipeline | None

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        # The first two jobs of a lane may start at the same time.
        self._making = threading.Lock()

    def start(self) -> None:
        """Load the models to preload.

        Raises `JobError` if the extra is not installed, or a model cannot be loaded.
        """
        if not is_installed(self.method):
            raise JobError(
                ErrorCode.UNKNOWN_METHOD,
                "the libraries that the flux method needs are not installed: "
                "run `pip install 'upscaled[flux]'`",
            )
        catalog = Catalog.load()
        for name in self.settings.preload:
            model = catalog.find(name)
            if name.endswith(".gguf") or (model is not None and model.folder == "unet"):
                self._get().preload(name)

    def prepare(self, config: FluxConfig, context: Context) -> Enlarge:
        """Find the files of a job. Raises `JobError`."""
        if self._models is None:
            context.progress(0, "load", budget_s=_IMPORT_BUDGET_S)
        pipeline = self._get()
        from upscaled_models.flux.enlargement import FluxEnlargement

        return FluxEnlargement(pipeline, config, context).enlarge

    def lacks(self) -> str | None:
        """The first file of the set that is missing."""
        return what_is_missing(Catalog.load(), self.settings.model_dir)

    def _get(self) -> Pipeline:
        if self._models is None:
            with self._making:
                if self._models is None:
                    from upscaled_models.flux.pipeline import Pipeline

                    self._models = Pipeline(self.settings)
        return self._models
