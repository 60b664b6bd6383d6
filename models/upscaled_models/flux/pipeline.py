"""What FLUX jobs share: the device, the first stage, and the models in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from upscaled_models.device.choice import free_bytes
from upscaled_models.device.models import DeviceModels
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.device.precision import choose_dtype
from upscaled_models.engine import Context, Settings
from upscaled_models.esrgan.networks import Networks
from upscaled_models.flux.autoencoder import check_autoencoder
from upscaled_models.flux.embeddings import EmbeddingCache
from upscaled_models.flux.files import Files, find_files
from upscaled_models.flux.models import FluxModels, load_models
from upscaled_models.flux.text import Embeddings, Tokens, encode
from upscaled_models.flux.transformer import check_transformer
from upscaled_models.flux.weights import EachTensor
from upscaled_models.memory import file_status, file_version

# 18 GB from a cold, slow disk.
_LOAD_BUDGET_S = 1800.0
# The T5 encoder's activations, and the one layer of it that is expanded.
_ENCODING_BYTES = 2 * 1024**3


class Pipeline(DeviceModels):
    """The device, the first stage's networks and FLUX's own models in memory."""

    def __init__(self, settings: Settings) -> None:
        """Raises `JobError` if the device cannot be used."""
        super().__init__(settings)
        self.first_stage = Networks(settings)
        # FLUX leaves the range of float16; it was trained in bfloat16.
        self.dtype = (
            torch.bfloat16
            if self.device.type == "cuda"
            else choose_dtype("auto", self.device, bits=8)[0]
        )

    def preload(self, name: str) -> None:
        """Load a transformer and what goes with it. Raises `JobError`."""
        with self.flux_models(find_files(self.catalog, name, self.settings.model_dir), _silent):
            pass

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
            if free_bytes(self.device) < wanted:
                self.free_memory()
            fits = free_bytes(self.device) >= wanted
            device = self.device if fits else torch.device("cpu")
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
        stats = [file_status(path) for path in (files.transformer, files.autoencoder)]
        # A file that was replaced is another model, and so are the same weights with other configs.
        configs = (repr(sorted(files.config(part).items())) for part in ("transformer", "vae"))
        key = (files, *map(file_version, stats), *configs)
        size = sum(status.st_size for status in stats)

        def load() -> FluxModels:
            # The largest model by far: every other makes room for it that is not in use.
            self.free_memory()
            return load_models(files, self.device, self.dtype, free_bytes(self.device), each)

        with self.models.use(key, files.transformer.stem, size, load) as models:
            yield models


def report_loading(context: Context) -> EachTensor:
    """Reports each loaded tensor, which is also when the job can be cancelled."""
    context.progress(0, "load", budget_s=_LOAD_BUDGET_S)

    def each(done: int, total: int) -> None:
        context.progress(0, "load", done=done, total=total)

    return each


def _silent(done: int, total: int) -> None:
    """A preload has no job to report to."""
