"""What FLUX jobs share: the device, the first stage, and the models in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from upscaled_models.catalog import Catalog
from upscaled_models.engine import Context, Device, Settings
from upscaled_models.esrgan.out_of_memory import free_caches
from upscaled_models.esrgan.precision import choose_dtype
from upscaled_models.esrgan.upscaler import Upscaler as FirstStageUpscaler
from upscaled_models.esrgan.upscaler import device_bytes
from upscaled_models.flux.autoencoder import check_autoencoder
from upscaled_models.flux.embeddings import EmbeddingCache
from upscaled_models.flux.files import Files, find_files
from upscaled_models.flux.models import FluxModels, load_models
from upscaled_models.flux.text import Embeddings, Tokens, encode
from upscaled_models.flux.transformer import check_transformer
from upscaled_models.flux.weights import EachTensor
from upscaled_models.memory import shared_models
from upscaled_protocol.memorygroup import available_bytes

# 18 GB from a cold, slow disk.
_LOAD_BUDGET_S = 1800.0
# The T5 encoder's activations, and the one layer of it that is expanded.
_ENCODING_BYTES = 2 * 1024**3


class Upscaler:
    """The device, the models in memory, the catalogue: all that outlives a job."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.first_stage = FirstStageUpscaler(settings)
        self.torch_device = torch.device(self.device().name)
        # FLUX leaves the range of float16; bfloat16 is what it was trained in.
        self.dtype = (
            torch.bfloat16
            if self.torch_device.type == "cuda"
            else choose_dtype("auto", self.torch_device, bits=8)[0]
        )
        self.catalog = Catalog.load()
        self._models = shared_models(
            settings.model_memory_gb, settings.model_idle_s, device_bytes(self.torch_device)
        )

    def preload(self, name: str) -> None:
        """Load a transformer and what goes with it. Raises `JobError`."""
        with self.flux_models(find_files(self.catalog, name, self.settings.model_dir), _silent):
            pass

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
        return self.first_stage.device()

    def embeddings(self, tokens: Tokens, files: Files, context: Context) -> Embeddings:
        """A prompt's embeddings, kept ones or new ones. Raises `JobError`."""
        cache = EmbeddingCache(files)
        embeddings = cache.find(tokens)
        if embeddings is not None:
            return embeddings
        with context.phase("load"):
            # What is wrong with the other files is better known before minutes are spent.
            check_transformer(files)
            check_autoencoder(files)
            wanted = files.t5.stat().st_size + _ENCODING_BYTES
            if self.free_bytes() < wanted:
                self.free_memory()
            fits = self.free_bytes() >= wanted
            device = self.torch_device if fits else torch.device("cpu")
            embeddings = encode(tokens, files, device, report_loading(context))
            free_caches()
        if not cache.keep(tokens, embeddings):
            context.warn("the model folder is not writable: the prompt's embeddings are not kept")
        return embeddings

    @contextmanager
    def flux_models(self, files: Files, each: EachTensor) -> Iterator[FluxModels]:
        """Hold transformer and autoencoder in memory; `each` is called per tensor that is loaded.

        Raises `JobError`, and what `each` raises.
        """
        stats = [path.stat() for path in (files.transformer, files.autoencoder)]
        # A file that was replaced is another model, and so are the same weights with other configs.
        configs = (repr(sorted(files.config(part).items())) for part in ("transformer", "vae"))
        key = (files, *((status.st_mtime_ns, status.st_size) for status in stats), *configs)
        size = sum(status.st_size for status in stats)

        def load() -> FluxModels:
            # The largest model by far: every other makes room for it that is not in use.
            self.free_memory()
            return load_models(files, self.torch_device, self.dtype, self.free_bytes(), each)

        with self._models.use(key, files.transformer.stem, size, load) as models:
            yield models

    def free_bytes(self) -> int:
        """Memory that is free on the device, or on the host if it computes there."""
        if self.torch_device.type != "cuda":
            return available_bytes()
        # What torch holds without using it is free for us too.
        held = torch.cuda.memory_reserved(self.torch_device) - torch.cuda.memory_allocated(
            self.torch_device
        )
        return int(torch.cuda.mem_get_info(self.torch_device)[0]) + held


def report_loading(context: Context) -> EachTensor:
    """Reports each loaded tensor, which is also when the job can be cancelled."""
    context.progress(0, "load", budget_s=_LOAD_BUDGET_S)

    def each(done: int, total: int) -> None:
        context.progress(0, "load", done=done, total=total)

    return each


def _silent(done: int, total: int) -> None:
    """A preload has no job to report to."""
