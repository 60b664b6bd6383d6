"""One FLUX job: the first stage's rows, refined in bands of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext

import numpy as np
import torch

from upscaled_imaging.dimensions import Plan
from upscaled_imaging.fit import fitted
from upscaled_imaging.read import Source
from upscaled_imaging.rows import Picture
from upscaled_models.device.choice import free_bytes
from upscaled_models.device.out_of_memory import as_job_error
from upscaled_models.device.precision import NAMES
from upscaled_models.engine import Context
from upscaled_models.flux.files import find_files
from upscaled_models.flux.firststage import Subordinate
from upscaled_models.flux.models import FluxModels
from upscaled_models.flux.picture import band_offsets, refine_rows
from upscaled_models.flux.pipeline import Pipeline, report_loading
from upscaled_models.flux.refiner import Refiner, Request
from upscaled_models.flux.sampling import noise_levels
from upscaled_models.flux.text import tokenize
from upscaled_models.picture import Enlargement, RowBlocks
from upscaled_protocol.configs import EsrganConfig, FluxConfig

# One step of a batch of large tiles, or the encoding of its tiles.
_HOST_STEP_BUDGET_S = 1800.0
_DEVICE_STEP_BUDGET_S = 600.0
_DEFAULT_TILE = 512
# Of the memory that is free once all is loaded: for a batch of tiles, and for the first stage's.
_BATCH_SHARE = 0.5
_FIRST_STAGE_SHARE = 0.25
# The fields that mean the same for an ESRGAN job.
_FIRST_STAGE = {"image_path", "image_base64", "image_url", "upscale_model", "pre_model"}


class FluxEnlargement(Enlargement):
    """Enlarges a picture with the first stage and refines it; the host of its refiner."""

    def __init__(self, pipeline: Pipeline, config: FluxConfig, context: Context) -> None:
        """Find the files. Raises `JobError`."""
        settings = pipeline.settings
        roots = settings.access.roots
        self.device = str(pipeline.device)
        self._pipeline = pipeline
        self._config = config
        self._context = context
        self._files = find_files(pipeline.catalog, config.model, settings.model_dir, roots)
        self._levels = noise_levels(config.steps, config.denoise, self._files.noise_shift())
        self._first_stage = pipeline.first_stage.prepare(
            EsrganConfig(**config.model_dump(include=_FIRST_STAGE, exclude_none=True)),
            # If there is more to come, its percentages are not the job's.
            Subordinate(context) if self._levels else context,
            memory_share=_FIRST_STAGE_SHARE,
        )
        self._tokens = tokenize(config.prompt, self._files)
        if config.block_cache:
            context.warn("block_cache was ignored: this version computes every call in full")
        if self._tokens.truncated:
            context.warn(f"the prompt was cut after {self._tokens.t5.shape[1]} tokens")
        on_host = pipeline.device.type == "cpu"
        self._step_budget_s = _HOST_STEP_BUDGET_S if on_host else _DEVICE_STEP_BUDGET_S
        self._band = 0
        self._bands = 1

    def enlarge(self, source: Source, plan: Plan) -> AbstractContextManager[Enlargement]:
        """Take the picture. All of a job's models wait for the device, they are too large."""
        self._source = source
        self._plan = plan
        self.size = plan.output
        self.bits = source.bits
        return nullcontext(self)

    @property
    def precision(self) -> str:
        """What the transformer computes in."""
        return NAMES[self._pipeline.dtype]

    def rows(self) -> RowBlocks:
        """Rows of the plan's output: the first stage is resampled and cropped before it is refined.

        Raises `JobError`.
        """
        pipeline, context = self._pipeline, self._context
        with as_job_error(), ExitStack() as used:
            models = None
            if self._levels:
                embeddings = pipeline.embeddings(self._tokens, self._files, context)
                models = used.enter_context(
                    pipeline.flux_models(self._files, report_loading(context))
                )
            free = free_bytes(pipeline.device)
            first = used.enter_context(self._first_stage(self._source, self._plan))
            if first.model is not None:
                self.model_reason = f"the first stage is {first.model}: {first.model_reason}"
            rows = fitted(
                first.rows(), self._plan, native=first.size, native_bits=self.bits, bits=self.bits
            )
            if models is not None:
                config = self._config
                request = Request(embeddings, self._levels, config.guidance, config.seed)
                rows = self._refined(rows, models, request, int(free * _BATCH_SHARE))
            yield from rows

    def _refined(
        self, rows: Iterator[np.ndarray], models: FluxModels, request: Request, memory_bytes: int
    ) -> Iterator[np.ndarray]:
        refiner = Refiner(
            models.autoencoder,
            models.transformer,
            request,
            tile_size=self._config.tile_size or _DEFAULT_TILE,
            memory_bytes=memory_bytes,
            host=self,
        )
        picture = Picture(self.size.width, self.size.height, self._source.bands, self.bits)
        self._bands = len(band_offsets(picture.height, refiner.side, refiner.grid))

        def refine(band: torch.Tensor, top: int) -> torch.Tensor:
            with self._context.phase("inference"):
                refined = refiner.refine(band, top)
            self._band += 1
            return refined

        return refine_rows(rows, picture, side=refiner.side, grid=refiner.grid, refine=refine)

    def check_cancelled(self) -> None:
        self._context.check_cancelled()

    def band_progress(self, done: int, total: int) -> None:
        """Report the model calls of the current band; the other bands have as many."""
        self._context.progress(
            100 * (self._band + done / total) / self._bands,
            "refine",
            done=self._band * total + done,
            total=self._bands * total,
            budget_s=self._step_budget_s,
        )

    def make_room(self) -> None:
        self._context.warn("memory ran out: the picture was finished in smaller batches or tiles")
        self._pipeline.free_memory()
