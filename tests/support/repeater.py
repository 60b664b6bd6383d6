"""A daemon for tests of hosts whose engine repeats pixels: `python repeater.py`. No torch, but real
files: they are read and written as every engine does it."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import RecordingContext
from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.write import open_sink
from upscaled_models.engine import Settings
from upscaled_models.picture import picture_outcome
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import JobError
from upscaled_protocol.messages import Size

COMMAND = [sys.executable, __file__]


def upscale(fields: dict[str, Any]) -> dict[str, Any]:
    """What the result tells. Raises `JobError`."""
    config, context = EsrganConfig(**fields), RecordingContext()
    settings = Settings(model_dir=Path(tempfile.gettempdir()))
    with open_source(config, settings, context) as source:
        times = int(config.upscale_factor or 2)
        size = Size(width=source.width, height=source.height)
        plan = plan_size(config, size, factor=times, default_dpi=150)
        output = plan_output(config, settings, source, plan, method="esrgan", context=context)
        native = Size(width=source.width * times, height=source.height * times)
        with open_sink(output, native, source.bands, source.bits) as sink:
            rows = source.rows(source.height)
            sink.write(rows.repeat(times, axis=0).repeat(times, axis=1))
            outcome = picture_outcome(output, sink.commit(), size, model="repeater", device="cpu")
    told = {
        "output_path": outcome.output_path,
        "output_base64": outcome.output_base64,
        "input_size": {"width": size.width, "height": size.height},
        "output_size": {"width": plan.output.width, "height": plan.output.height},
        "warnings": context.warnings,
    }
    return {name: value for name, value in told.items() if value is not None}


def say(**message: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Do each job in turn."""
    say(type="status", message="ready", protocol=1, methods=["esrgan"])
    for line in sys.stdin:
        job = json.loads(line)
        if job.get("type", "job") != "job":
            continue
        job_id = job["job_id"]
        say(type="accepted", job_id=job_id, position=0)
        try:
            say(type="result", job_id=job_id, processing_time=0.1, **upscale(job["config"]))
        except JobError as error:
            say(type="error", job_id=job_id, error=error.message, code=error.code, retryable=False)


if __name__ == "__main__":
    main()
