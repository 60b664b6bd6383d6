"""The `esrgan` method without a network, and so without torch: all else of a job is real. For tests
of what lies around the engine, in processes of their own."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.write import open_sink
from upscaled_models.engine import Context, Device, Engine, Outcome
from upscaled_models.picture import picture_outcome
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.messages import Size

# Names a file: while it exists, jobs wait before they begin.
HOLD = "UPSCALED_TEST_HOLD"
_HOLD_TURN_S = 0.02

_SCALE = 4
_ROWS = 64


class NearestEngine(Engine[EsrganConfig]):
    """Repeats pixels four times each way; the sink resamples to the size that was asked for."""

    method = "esrgan"

    def run(self, config: EsrganConfig, context: Context) -> Outcome:
        """Upscale one picture."""
        while os.path.exists(os.environ.get(HOLD, "")):  # noqa: PTH110 - an empty path is no file
            context.check_cancelled()
            time.sleep(_HOLD_TURN_S)
        with open_source(config, self.settings, context) as source:
            size = Size(width=source.width, height=source.height)
            factor = config.upscale_factor or self.settings.defaults.factor
            plan = plan_size(config, size, factor=factor, default_dpi=self.settings.defaults.dpi)
            output = plan_output(
                config, self.settings, source, plan, method="esrgan", context=context
            )
            native = Size(width=size.width * _SCALE, height=size.height * _SCALE)
            with open_sink(output, native, source.bands, source.bits) as sink:
                while source.rows_left:
                    context.check_cancelled()
                    rows = source.rows(_ROWS)
                    sink.write(np.repeat(np.repeat(rows, _SCALE, axis=0), _SCALE, axis=1))
                written = sink.commit()
        return picture_outcome(
            output, written, size, model=config.model, device="cpu", precision="fp32"
        )

    def device(self) -> Device:
        """The processor."""
        return Device(name="cpu")


def environment(**more: str) -> dict[str, str]:
    """The environment of a process whose workers have this engine."""
    here = Path(__file__).parent
    paths = [str(here / "nearest"), str(here), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return os.environ | {"PYTHONPATH": path, "UPSCALED_METHODS": "esrgan"} | more
