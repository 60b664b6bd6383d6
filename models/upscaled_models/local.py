"""The base of the engines that compute on this machine, with torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.catalog import Catalog
from upscaled_models.device.threads import settle_waiting
from upscaled_models.engine import Device, Settings
from upscaled_models.picture import PictureConfigT, PictureEngine
from upscaled_models.torchcache import settle_torch_cache

if TYPE_CHECKING:
    from upscaled_models.device.models import DeviceModels


class LocalEngine(PictureEngine[PictureConfigT]):
    """An engine that computes on a device of this machine; it has models once it has started."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._models: DeviceModels | None = None

    @classmethod
    def preimport(cls) -> None:
        """Prepare memory and threads for torch, which reads their settings when it is imported."""
        settle_waiting()
        keep_freed_memory()
        settle_torch_cache()
        super().preimport()

    def models(self) -> list[str]:
        """Names of the catalogue, and the stems of the user's own files."""
        return Catalog.load().installed(self.settings.model_dir, self.method)

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return [] if self._models is None else self._models.models_loaded()

    def device(self) -> Device | None:
        """The device that it computes on; None if it has not started."""
        return None if self._models is None else self._models.describe()

    def trim(self, *, idle_only: bool = False) -> None:
        """Unload the models that no job uses, and empty torch's caches."""
        if self._models is None:
            return
        if idle_only:
            self._models.free_idle_memory()
        else:
            self._models.free_memory()

    def close(self) -> None:
        """Unload the models."""
        self.trim()
