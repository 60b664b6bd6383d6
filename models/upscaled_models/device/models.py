"""The models that an engine holds in a device's memory."""

from __future__ import annotations

from upscaled_models.catalog import Catalog
from upscaled_models.device.choice import describe, device_bytes, find_device
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.engine import Device, Settings
from upscaled_models.memory import shared_models


class DeviceModels:
    """The device, the catalogue and the loaded models of an engine: they outlive its jobs.

    Engines of one device share `models`, so that a job can unload what another engine left there.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises `JobError` if the device cannot be used."""
        self.settings = settings
        self.device = find_device(settings.device)
        self.catalog = Catalog.load()
        self.models = shared_models(
            settings.model_memory_gb, settings.model_idle_s, device_bytes(self.device)
        )

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return self.models.names()

    def describe(self) -> Device:
        """The device, with the memory that is free on it now."""
        return describe(self.device)

    def free_memory(self) -> None:
        """Unload the models that no job uses, and empty the caches."""
        self.models.unload_unused()
        free_caches()

    def free_idle_memory(self) -> None:
        """Unload the models that were idle for longer than the settings allow."""
        if self.models.unload_idle():
            free_caches()
