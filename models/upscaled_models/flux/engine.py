"""The FLUX engine as the worker sees it; the work is done in `upscaler.py`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from upscaled_models.catalog import Catalog
from upscaled_models.engine import Context, Device, Engine, Outcome, Settings
from upscaled_models.memory import keep_freed_memory
from upscaled_models.registry import is_installed
from upscaled_models.threads import settle_waiting
from upscaled_protocol.configs import FluxConfig
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from upscaled_models.flux.upscaler import Upscaler

# diffusers and transformers, from a cold disk.
_IMPORT_BUDGET_S = 300.0


class FluxEngine(Engine[FluxConfig]):
    """Upscales pictures with FLUX.1-dev over an ESRGAN model.

    Nothing of it is loaded or imported before its first job, unless it is to be preloaded.
    """

    method = "flux"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._upscaler: Upscaler | None = None
        # Two jobs of a lane may come first at once.
        self._making = threading.Lock()

    @classmethod
    def preimport(cls) -> None:
        """Prepare torch's threads, and import nothing: diffusers takes seconds and memory that
        most workers never need."""
        settle_waiting()
        keep_freed_memory()

    def start(self) -> None:
        """Load the preloaded. Raises `JobError` where the extra is not installed, or a model
        cannot be loaded."""
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

    def run(self, config: FluxConfig, context: Context) -> Outcome:
        """Upscale one picture. Raises `JobError`."""
        if self._upscaler is None:
            context.progress(0, "load", budget_s=_IMPORT_BUDGET_S)
        return self._get().run(config, context)

    def models(self) -> list[str]:
        """Transformers in the model folder, by catalogue name or stem."""
        catalog = Catalog.load()
        found: list[str] = []
        for path in sorted((self.settings.model_dir / "unet").glob("*.gguf")):
            model = catalog.find(path.name)
            found.append(path.stem if model is None else model.name)
        return found

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return [] if self._upscaler is None else self._upscaler.models_loaded()

    def device(self) -> Device | None:
        """Where it computes; None before the first job."""
        return None if self._upscaler is None else self._upscaler.device()

    def trim(self, *, idle_only: bool = False) -> None:
        """Unload models that no job uses, and give torch's caches back."""
        if self._upscaler is None:
            return
        if idle_only:
            self._upscaler.free_idle_memory()
        else:
            self._upscaler.free_memory()

    def close(self) -> None:
        """Let go of the models."""
        self.trim()

    def _get(self) -> Upscaler:
        if self._upscaler is None:
            with self._making:
                if self._upscaler is None:
                    from upscaled_models.flux.upscaler import Upscaler

                    self._upscaler = Upscaler(self.settings)
        return self._upscaler
