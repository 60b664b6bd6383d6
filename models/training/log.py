"""The training log: one JSON object per line, beside the checkpoint."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.run import Run


class Log:
    """Lines of a run, by step. Opening it drops the lines of steps that will be taken again."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = []
        if step and path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def begin(self, run: Run) -> None:
        """Write what the figures after this line were made with."""
        self.write(
            {
                "step": run.step,
                "recipe": asdict(run.recipe),
                "threads": torch.get_num_threads(),
                "bfloat16": run.bfloat16,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
            }
        )


def _step(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):  # the last line of a process that was killed
        return 1 << 62
