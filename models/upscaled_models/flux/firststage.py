"""The ESRGAN upscale that FLUX starts from: a source's rows to rows of the wanted size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from upscaled_models.dimensions import Plan
from upscaled_models.engine import Context, Phase
from upscaled_models.esrgan.job import Job
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.precision import choose_dtype
from upscaled_models.esrgan.readahead import read_ahead
from upscaled_models.imaging.read import Source
from upscaled_models.imaging.resample import resample
from upscaled_models.imaging.rows import cropped
from upscaled_models.memory import ModelCache


@contextmanager
def first_stage(
    path: Path,
    source: Source,
    plan: Plan,
    *,
    models: ModelCache,
    device: torch.device,
    memory_bytes: int,
    free_memory: Callable[[], None],
    context: Context,
) -> Iterator[Iterator[np.ndarray]]:
    """Rows of the plan's output, cropped already, in the source's bands and bits.

    path: the upscaling model's weights. Raises `JobError`, while rows are read too.
    """
    with ExitStack() as held:

        def network(dtype: torch.dtype) -> Network:
            status = path.stat()
            # As in the ESRGAN engine: where both share a cache, they share the network.
            key = (path, status.st_mtime_ns, status.st_size, dtype)
            return held.enter_context(
                models.use(
                    key,
                    path.stem,
                    status.st_size,
                    lambda: Network(load_descriptor(path), device, dtype),
                )
            )

        dtype, _ = choose_dtype("auto", device, bits=source.bits)
        with context.phase("load"):
            loaded = network(dtype)
        job = Job(
            loaded,
            source,
            plan,
            tile_size=None,
            context=context,
            memory_bytes=memory_bytes,
            free_memory=free_memory,
            full_precision=lambda: network(torch.float32),
        )
        bands = held.enter_context(read_ahead(job.read()))
        yield _fitted(job.upscale(bands), job, source, plan)


def _fitted(
    rows: Iterator[np.ndarray], job: Job, source: Source, plan: Plan
) -> Iterator[np.ndarray]:
    """Native rows at the size that was asked for: what is cropped off is not worth refining."""
    if job.native != plan.scaled:
        rows = resample(
            rows,
            source=(job.native.width, job.native.height),
            target=(plan.scaled.width, plan.scaled.height),
            bits=source.bits,
        )
    if plan.output != plan.scaled:
        rows = cropped(rows, plan.crop_x, plan.crop_y, plan.output.width, plan.output.height)
    return rows


class Subordinate:
    """A job's context for the part of it that is not its measure: it lives on, at no percentage."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.job_id = context.job_id
        self.attempt = context.attempt

    def progress(
        self,
        percent: float,  # noqa: ARG002 - of the first stage alone
        stage: str,
        *,
        done: int | None = None,  # noqa: ARG002
        total: int | None = None,  # noqa: ARG002
        budget_s: float | None = None,
    ) -> None:
        self._context.progress(0, stage, budget_s=budget_s)

    def check_cancelled(self) -> None:
        self._context.check_cancelled()

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        return self._context.phase(phase)

    def device_turn(self) -> AbstractContextManager[None]:
        return self._context.device_turn()

    def warn(self, text: str) -> None:
        self._context.warn(text)
