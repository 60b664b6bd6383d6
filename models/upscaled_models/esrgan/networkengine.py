"""The base of the engines whose models are the networks that spandrel knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from upscaled_models.local import LocalEngine
from upscaled_models.picture import PictureConfigT

if TYPE_CHECKING:
    from upscaled_models.esrgan.networks import Networks


class NetworkEngine(LocalEngine[PictureConfigT]):
    """An engine that has its `Networks` once it has started."""

    _models: Networks | None

    def compute(self, task: Callable[[], None]) -> None:
        """On a processor one thread computes for all jobs."""
        self._started().compute(task)

    def _started(self) -> Networks:
        if self._models is None:
            raise RuntimeError("start comes before run")
        return self._models
