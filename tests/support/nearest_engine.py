"""The `esrgan` method without a network, and so without torch: all else of a job is real. For tests
of what lies around the engine, in processes of their own."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from nearest_faces import FACES
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_models.engine import Context, Device
from upscaled_models.picture import Enlarge, Enlargement, PictureEngine, RowBlocks
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.faces import Face
from upscaled_protocol.messages import Size

# Names a file: while it exists, jobs wait before they begin.
HOLD = "NEAREST_ENGINE_HOLD"
_HOLD_TURN_S = 0.02

_ROWS = 64


class NearestEngine(PictureEngine[EsrganConfig]):
    """Repeats pixels; the sink resamples if the factor is no whole number."""

    method = "esrgan"

    def prepare(self, config: EsrganConfig, context: Context) -> Enlarge:
        """Wait while `HOLD` says so."""
        while os.path.exists(os.environ.get(HOLD, "")):  # noqa: PTH110 - an empty path is no file
            context.check_cancelled()
            time.sleep(_HOLD_TURN_S)

        def enlarge(source: Source, plan: Plan) -> AbstractContextManager[Enlargement]:
            enlarged = _Repeated(source, plan, context)
            enlarged.faces = FACES if config.faces else None
            return nullcontext(enlarged)

        return enlarge

    def device(self) -> Device:
        """The processor."""
        return Device(name="cpu")


class _Repeated(Enlargement):
    device = "cpu"
    precision = "fp32"
    faces: list[Face] | None = None

    def __init__(self, source: Source, plan: Plan, context: Context) -> None:
        self._source = source
        self._context = context
        self._times = -(-plan.scaled.width // source.width)
        self.size = Size(width=source.width * self._times, height=source.height * self._times)
        self.bits = source.bits

    def rows(self) -> RowBlocks:
        while self._source.rows_left:
            self._context.check_cancelled()
            rows = self._source.rows(_ROWS)
            yield rows.repeat(self._times, axis=0).repeat(self._times, axis=1)


def environment(**more: str) -> dict[str, str]:
    """The environment of a process whose workers have this engine."""
    return os.environ | variables() | more


def variables() -> dict[str, str]:
    """What its environment must have."""
    here = Path(__file__).parent
    paths = [str(here / "nearest"), str(here), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "UPSCALED_METHODS": "esrgan"}
