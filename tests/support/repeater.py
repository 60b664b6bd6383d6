"""A daemon for tests of hosts, `python repeater.py`: it repeats the pixels of real files."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from nearest_engine import NearestEngine
from recording import RecordingContext
from upscaled_imaging.settings import Defaults
from upscaled_models.engine import Settings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import JobError

COMMAND = [sys.executable, __file__]


def upscale(fields: dict[str, Any]) -> dict[str, Any]:
    """What the result says. Raises `JobError`."""
    context = RecordingContext()
    settings = Settings(model_dir=Path(tempfile.gettempdir()), defaults=Defaults(factor=2))
    outcome = NearestEngine(settings).run(EsrganConfig(**fields), context)
    assert outcome.input_size is not None
    assert outcome.output_size is not None
    told = {
        "output_path": outcome.output_path,
        "output_base64": outcome.output_base64,
        "input_size": outcome.input_size.model_dump(),
        "output_size": outcome.output_size.model_dump(),
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
