"""What the engines that compute here, with torch, have in common."""

from __future__ import annotations

from typing import Protocol

from upscaled_models.engine import Device, Settings
from upscaled_models.memory import keep_freed_memory
from upscaled_models.picture import PictureConfigT, PictureEngine
from upscaled_models.threads import settle_waiting
from upscaled_models.torchcache import settle_torch_cache


class Upscaler(Protocol):
    """What holds an engine's models and its device; importing it brings torch."""

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""

    def device(self) -> Device:
        """The device, with what is free on it now."""

    def free_memory(self) -> None:
        """Give back what no job is using."""

    def free_idle_memory(self) -> None:
        """Let go of the models that were idle for longer than the settings allow."""


class LocalEngine(PictureEngine[PictureConfigT]):
    """An engine with an upscaler, once it has one."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._upscaler: Upscaler | None = None

    @classmethod
    def preimport(cls) -> None:
        """Prepare memory and threads for torch, which reads their settings as it is imported."""
        settle_waiting()
        keep_freed_memory()
        settle_torch_cache()
        super().preimport()

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return [] if self._upscaler is None else self._upscaler.models_loaded()

    def device(self) -> Device | None:
        """Where it computes; None before that is known."""
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
