"""What FLUX jobs share, and the way of one from its input file to its output file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import torch

from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import Source, open_source
from upscaled_imaging.rows import Picture
from upscaled_imaging.write import open_sink
from upscaled_models.catalog import Catalog
from upscaled_models.engine import Context, Device, Outcome, Settings
from upscaled_models.esrgan.out_of_memory import free_caches, is_out_of_memory
from upscaled_models.esrgan.precision import NAMES, choose_dtype
from upscaled_models.esrgan.upscaler import Upscaler as FirstStageUpscaler
from upscaled_models.esrgan.upscaler import device_bytes
from upscaled_models.flux.autoencoder import check_autoencoder
from upscaled_models.flux.embeddings import EmbeddingCache
from upscaled_models.flux.files import Files, find_files
from upscaled_models.flux.firststage import Subordinate
from upscaled_models.flux.models import FluxModels, load_models
from upscaled_models.flux.picture import band_offsets, refine_rows
from upscaled_models.flux.refiner import Refiner, Request
from upscaled_models.flux.sampling import noise_levels
from upscaled_models.flux.text import Embeddings, Tokens, encode, tokenize
from upscaled_models.flux.transformer import check_transformer
from upscaled_models.flux.weights import EachTensor
from upscaled_models.memory import shared_models
from upscaled_models.picture import picture_outcome
from upscaled_protocol.configs import FluxConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.memorygroup import available_bytes
from upscaled_protocol.messages import Size

# 18 GB from a cold, slow disk.
_LOAD_BUDGET_S = 1800.0
# One step of a batch of large tiles, or the encoding of its tiles.
_HOST_STEP_BUDGET_S = 1800.0
_DEVICE_STEP_BUDGET_S = 600.0
_DEFAULT_TILE = 512
# Of the memory that is free once all is loaded: for a batch of tiles, and for the first stage's.
_BATCH_SHARE = 0.5
_FIRST_STAGE_SHARE = 0.25
# The T5 encoder's activations, and the one layer of it that is expanded.
_ENCODING_BYTES = 2 * 1024**3


class Upscaler:
    """The device, the models in memory, the catalogue: all that outlives a job."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._first_stage = FirstStageUpscaler(settings)
        self._device = torch.device(self.device().name)
        # FLUX leaves the range of float16; bfloat16 is what it was trained in.
        self._dtype = (
            torch.bfloat16
            if self._device.type == "cuda"
            else choose_dtype("auto", self._device, bits=8)[0]
        )
        self._catalog = Catalog.load()
        self._models = shared_models(
            settings.model_memory_gb, settings.model_idle_s, device_bytes(self._device)
        )

    def preload(self, name: str) -> None:
        """Load a transformer and what goes with it. Raises `JobError`."""
        with self._flux_models(find_files(self._catalog, name, self.settings.model_dir), _silent):
            pass

    def run(self, config: FluxConfig, context: Context) -> Outcome:
        """Upscale one picture. Raises `JobError`; leaves no file behind unless it returns."""
        settings = self.settings
        roots = settings.access.roots
        files = find_files(self._catalog, config.model, settings.model_dir, roots)
        upscaler = self._catalog.locate(config.upscale_model, settings.model_dir, roots)
        tokens = tokenize(config.prompt, files)
        if tokens.truncated:
            context.warn(f"the prompt was cut after {tokens.t5.shape[1]} tokens")
        levels = noise_levels(config.steps, config.denoise, files.noise_shift())
        with _told_out_of_memory(), ExitStack() as held:
            with context.phase("decode"):
                source = held.enter_context(open_source(config, settings, context))
            size = Size(width=source.width, height=source.height)
            factor = config.upscale_factor or settings.defaults.factor
            plan = plan_size(config, size, factor=factor, default_dpi=settings.defaults.dpi)
            output = plan_output(config, settings, source, plan, method="flux", context=context)
            # The first stage has the right size and is cropped: nothing is left for the sink.
            output = replace(output, plan=replace(plan, scaled=plan.output, crop_x=0, crop_y=0))
            sink = held.enter_context(open_sink(output, plan.output, source.bands, source.bits))
            with context.device_turn(), ExitStack() as used:
                models = None
                if levels:
                    embeddings = self._embeddings(tokens, files, context)
                    models = used.enter_context(self._flux_models(files, _loading(context)))
                    if models.transformer.not_compiled is not None:
                        context.warn(
                            "the blocks could not be compiled, and ran as they are without "
                            f"--flux-compile: {models.transformer.not_compiled}"
                        )
                free_bytes = self._free_bytes()
                rows = used.enter_context(
                    self._first_stage.enlarged(
                        upscaler,
                        source,
                        plan,
                        # Where there is more to come its percentages are not the job's.
                        context if models is None else Subordinate(context),
                        memory_bytes=int(free_bytes * _FIRST_STAGE_SHARE),
                    )
                )
                if models is not None:
                    request = Request(
                        embeddings, levels, config.guidance, config.seed, config.block_cache
                    )
                    on_host = self._device.type == "cpu"
                    step_budget_s = _HOST_STEP_BUDGET_S if on_host else _DEVICE_STEP_BUDGET_S
                    job = _Job(self, context, step_budget_s)
                    refiner = Refiner(
                        models.autoencoder,
                        models.transformer,
                        request,
                        tile_size=config.tile_size or _DEFAULT_TILE,
                        memory_bytes=int(free_bytes * _BATCH_SHARE),
                        host=job,
                    )
                    rows = job.refined(rows, refiner, source, plan.output)
                for block in rows:
                    sink.write(block)
                if models is not None and config.block_cache:
                    context.warn(
                        f"block_cache: {refiner.calls - refiner.full_calls} of {refiner.calls} "
                        "model calls were cut short after the first block"
                    )
            with context.phase("encode"):
                written = sink.commit()
        return picture_outcome(
            output,
            written,
            size,
            model=config.model,
            device=str(self._device),
            precision=NAMES[self._dtype],
        )

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return self._models.names()

    def free_memory(self) -> None:
        """Give back what no job is using."""
        self._models.unload_unused()
        free_caches()

    def free_idle_memory(self) -> None:
        """Let go of the models that were idle for longer than the settings allow."""
        if self._models.unload_idle():
            free_caches()

    def device(self) -> Device:
        """The device, with what is free on it now."""
        return self._first_stage.device()

    def _embeddings(self, tokens: Tokens, files: Files, context: Context) -> Embeddings:
        cache = EmbeddingCache(files)
        embeddings = cache.find(tokens)
        if embeddings is not None:
            return embeddings
        with context.phase("load"):
            # What is wrong with the other files is better known before minutes are spent.
            check_transformer(files)
            check_autoencoder(files)
            wanted = files.t5.stat().st_size + _ENCODING_BYTES
            if self._free_bytes() < wanted:
                self.free_memory()
            fits = self._free_bytes() >= wanted
            device = self._device if fits else torch.device("cpu")
            embeddings = encode(tokens, files, device, _loading(context))
            free_caches()
        if not cache.keep(tokens, embeddings):
            context.warn("the model folder is not writable: the prompt's embeddings are not kept")
        return embeddings

    @contextmanager
    def _flux_models(self, files: Files, each: EachTensor) -> Iterator[FluxModels]:
        stats = [path.stat() for path in (files.transformer, files.autoencoder)]
        # A file that was replaced is another model, and so are the same weights with other configs.
        configs = (repr(sorted(files.config(part).items())) for part in ("transformer", "vae"))
        key = (files, *((status.st_mtime_ns, status.st_size) for status in stats), *configs)
        size = sum(status.st_size for status in stats)

        def load() -> FluxModels:
            # The largest model by far: every other makes room for it that is not in use.
            self.free_memory()
            return load_models(
                files,
                self._device,
                self._dtype,
                self._free_bytes(),
                each,
                compiled=self.settings.flux_compile,
            )

        with self._models.use(key, files.transformer.stem, size, load) as models:
            yield models

    def _free_bytes(self) -> int:
        if self._device.type != "cuda":
            return available_bytes()
        # What torch holds without using it is free for us too.
        held = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + held


class _Job:
    """One job's refining: its progress, and the host of its refiner."""

    def __init__(self, upscaler: Upscaler, context: Context, step_budget_s: float) -> None:
        self._upscaler = upscaler
        self._context = context
        self._step_budget_s = step_budget_s
        self._band = 0
        self._bands = 1

    def refined(
        self, rows: Iterator[np.ndarray], refiner: Refiner, source: Source, size: Size
    ) -> Iterator[np.ndarray]:
        """The first stage's rows, refined."""
        picture = Picture(size.width, size.height, source.bands, source.bits)
        self._bands = len(band_offsets(size.height, refiner.side, refiner.grid))

        def refine(band: torch.Tensor, top: int) -> torch.Tensor:
            with self._context.phase("inference"):
                refined = refiner.refine(band, top)
            self._band += 1
            return refined

        return refine_rows(rows, picture, side=refiner.side, grid=refiner.grid, refine=refine)

    def check_cancelled(self) -> None:
        self._context.check_cancelled()

    def band_progress(self, done: int, total: int) -> None:
        """Model calls of the band in hand; the other bands have as many."""
        self._context.progress(
            100 * (self._band + done / total) / self._bands,
            "refine",
            done=self._band * total + done,
            total=self._bands * total,
            budget_s=self._step_budget_s,
        )

    def make_room(self) -> None:
        self._context.warn("memory ran out: the picture was finished in smaller batches or tiles")
        self._upscaler.free_memory()


@contextmanager
def _told_out_of_memory() -> Iterator[None]:
    """Give a lack of memory its code also where nothing smaller can be tried: while loading."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise JobError(
            ErrorCode.OUT_OF_MEMORY,
            "memory ran out: free some, or use smaller files or a device with more",
        ) from error


def _loading(context: Context) -> EachTensor:
    """Has each loaded tensor be a sign of life, and a moment to be cancelled in."""
    context.progress(0, "load", budget_s=_LOAD_BUDGET_S)

    def each(done: int, total: int) -> None:
        context.progress(0, "load", done=done, total=total)

    return each


def _silent(done: int, total: int) -> None:
    """Nobody is told of a preload."""
