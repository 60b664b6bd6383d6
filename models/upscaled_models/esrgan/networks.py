"""What ESRGAN jobs share: the device, and the networks in its memory."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from upscaled_imaging.cores import computing_threads
from upscaled_imaging.damage import Finding, find_strong_compression, look_for_damage
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.read import Source
from upscaled_models.device.choice import free_bytes
from upscaled_models.device.models import DeviceModels
from upscaled_models.device.precision import choose_dtype
from upscaled_models.device.threads import computing_thread
from upscaled_models.engine import Context, Settings
from upscaled_models.esrgan.automatic import AUTO, CLEAN, PAIRS, choose
from upscaled_models.esrgan.enlargement import EsrganEnlargement
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.morearchitectures import licence_note
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.probecache import ProbeCache
from upscaled_models.esrgan.step import Loaded
from upscaled_models.memory import file_status, file_version
from upscaled_models.picture import Enlarge
from upscaled_protocol.configs import EsrganConfig, Precision
from upscaled_protocol.errors import ErrorCode, JobError

ResultT = TypeVar("ResultT")

# A large network from a cold, slow disk, with its trace or the probing of it.
_LOAD_BUDGET_S = 300.0
# The share of free memory for tiles. The rest is for the picture's rows and for the kernels' own
# memory, and on a host for other programs.
_HOST_SHARE = 0.5
_DEVICE_SHARE = 0.8


class Networks(DeviceModels):
    """The device and the networks in its memory."""

    def __init__(self, settings: Settings) -> None:
        """Raises `JobError` if the device cannot be used."""
        super().__init__(settings)
        torch.set_num_threads(settings.threads or computing_threads(settings.sharers))
        # By default cuDNN computes float32 in TensorFloat-32, which has the 10 bits of fp16.
        torch.backends.cudnn.allow_tf32 = False
        # Weights files whose results in half precision were unusable.
        self._full_precision_only: set[Path] = set()
        # The last loaded network of a file, in case the file is replaced by an unusable one.
        self._last_keys: dict[tuple[Path, torch.dtype], Hashable] = {}
        self._last_paths: dict[str, Path] = {}

    def preload(self, name: str) -> None:
        """Load a model in the precision that most jobs will ask for. Raises `JobError`.

        `auto` loads all models that it chooses from.
        """
        if name == AUTO:
            names = [model for pair in PAIRS for model in (pair.clean, pair.damaged)]
            for one in filter(self._is_installed, names):
                self.preload(one)
            return
        path = self.catalog.locate(name, self.settings.model_dir)
        dtype, _ = choose_dtype("auto", self.device, bits=8)
        with self._network(path, dtype) as network:
            # Before the first job, for a picture of any size.
            _ = network.geometry

    def prepare(
        self, config: EsrganConfig, context: Context, *, memory_share: float | None = None
    ) -> Enlarge:
        """Find the weights file of a job. The returned function enlarges its picture.

        memory_share: of the free memory of the device, for a tile; None for what is usual. Both
        raise `JobError`.
        """
        enlarge = partial(
            self._enlarge,
            before=None if config.pre_model is None else self._locate(config.pre_model),
            context=context,
            precision=_precision(config),
            tile_size=config.tile_size,
            memory_share=memory_share,
        )
        if config.model != AUTO:
            enlarge = partial(enlarge, self._locate(config.model))
            return partial(self._enlarge_named, enlarge, config, context)
        for pair in PAIRS:
            self._locate(pair.clean)
        return partial(self._enlarge_chosen, enlarge, config, context)

    def default_factor(self, config: EsrganConfig, source: Source, context: Context) -> float:
        """The factor of a job that states no size: 1 if its model does not enlarge. Loads the
        model. Raises `JobError`."""
        if config.model == AUTO:
            return self.settings.defaults.factor
        dtype, _ = choose_dtype(_precision(config), self.device, bits=source.bits)
        with contextlib.ExitStack() as held:
            loaded = self._hold(self._locate(config.model), dtype, context, held)
        if loaded.network.scale > 1:
            return self.settings.defaults.factor
        context.warn(
            f"the model {loaded.name} does not enlarge (its scale is 1): the result has the size "
            "of the input"
        )
        return 1.0

    def compute(self, task: Callable[[], ResultT]) -> ResultT:
        """Run `task` in the thread that computes on this device."""
        # An accelerator can be given a model while it computes with another.
        return computing_thread().run(task) if self.device.type == "cpu" else task()

    @contextlib.contextmanager
    def _enlarge_named(
        self,
        enlarge: Callable[[Source, Plan], AbstractContextManager[EsrganEnlargement]],
        config: EsrganConfig,
        context: Context,
        source: Source,
        plan: Plan,
    ) -> Iterator[EsrganEnlargement]:
        """Enlarge a picture with the model that its job names.

        The models for clean pictures sharpen the blocks of a JPEG. That is warned of, if the file's
        header is enough to know it.
        """
        if config.model in CLEAN and config.pre_model is None:
            finding = find_strong_compression(source)
            if finding is not None:
                better = choose(finding, plan.scale, self._is_installed).model
                if better not in CLEAN:
                    context.warn(
                        f"{finding.text}, and {config.model} sharpens what the compression left: "
                        f'{better}, which "auto" takes, removes it'
                    )
        with enlarge(source, plan) as job:
            yield job

    @contextlib.contextmanager
    def _enlarge_chosen(
        self,
        enlarge: Callable[[Path, Source, Plan], AbstractContextManager[EsrganEnlargement]],
        config: EsrganConfig,
        context: Context,
        source: Source,
        plan: Plan,
    ) -> Iterator[EsrganEnlargement]:
        """Choose a model by a look at the picture, and enlarge it with that.

        What `pre_model` makes of the picture cannot be looked at: it counts as clean.
        """
        if config.pre_model is not None:
            finding = Finding(False, f"{config.pre_model} restores the picture first")
        else:
            with context.phase("decode"):
                finding = look_for_damage(source)
        choice = choose(finding, plan.scale, self._is_installed)
        with enlarge(self._locate(choice.model), source, plan) as job:
            job.model, job.model_reason = choice
            yield job

    @contextlib.contextmanager
    def _enlarge(
        self,
        path: Path,
        source: Source,
        plan: Plan,
        *,
        before: Path | None,
        context: Context,
        precision: Precision,
        tile_size: int | None,
        memory_share: float | None,
    ) -> Iterator[EsrganEnlargement]:
        """Hold the networks at these paths, and read the picture ahead."""
        dtype, warning = choose_dtype(precision, self.device, bits=source.bits)
        if warning is not None:
            context.warn(warning)
        with contextlib.ExitStack() as held:
            loaded = self._hold(path, dtype, context, held)
            first = None if before is None else self._hold(before, dtype, context, held)
            memory_bytes = self._memory_for_tiles(memory_share)
            # This counts as loading: a network may have to be probed before the picture is cut.
            with context.phase("load"):
                job = EsrganEnlargement(
                    loaded,
                    source,
                    plan,
                    before=first,
                    tile_size=tile_size,
                    context=context,
                    memory_bytes=memory_bytes,
                    free_memory=self.free_memory,
                )
            with job.reading():
                yield job

    def _hold(
        self, path: Path, dtype: torch.dtype, context: Context, held: contextlib.ExitStack
    ) -> Loaded:
        """Load a network for a job, and keep it in memory until `held` is closed."""
        context.progress(0, "load", budget_s=_LOAD_BUDGET_S)
        with context.phase("load"):
            network = held.enter_context(self._network(path, dtype, context.warn))
        if note := licence_note(network.architecture):
            context.warn(note)

        def full_precision() -> Network:
            self._full_precision_only.add(path)
            if network.probe_cache is not None:
                network.probe_cache.keep_imprecise()
            return held.enter_context(self._network(path, torch.float32, context.warn))

        return Loaded(path.stem, network, full_precision)

    def _locate(self, model: str) -> Path:
        """The weights file of a job. It may be missing if its network is in memory."""
        settings = self.settings
        try:
            path = self.catalog.locate(model, settings.model_dir, settings.access.roots)
        except JobError as error:
            last = self._last_paths.get(model)
            loaded = {key[0] for key in self._last_keys}
            if error.code != ErrorCode.MODEL_NOT_FOUND or last not in loaded:
                raise
            return last
        self._last_paths[model] = path
        return path

    def _is_installed(self, model: str) -> bool:
        try:
            self._locate(model)
        except JobError:
            return False
        return True

    @contextlib.contextmanager
    def _network(
        self, path: Path, dtype: torch.dtype, warn: Callable[[str], None] | None = None
    ) -> Iterator[Network]:
        """Hold a network in memory.

        If its file cannot be used any more, the network that was loaded from it is used as long as
        it is in memory, and `warn` gets the reason.
        """
        if path in self._full_precision_only:
            dtype = torch.float32
        with contextlib.ExitStack() as held:
            try:
                network = held.enter_context(self._current_network(path, dtype))
            except JobError as error:
                fault = error
                last = self._last_keys.pop((path, dtype), None)
                if last is None or warn is None:
                    raise

                def load() -> Network:
                    raise fault

                network = held.enter_context(self.models.use(last, path.stem, 0, load))
                self._last_keys[path, dtype] = last
                warn(f"the model that was loaded before is still used: {error.message}")
            yield network

    @contextlib.contextmanager
    def _current_network(self, path: Path, dtype: torch.dtype) -> Iterator[Network]:
        """Hold the network that is in the file now."""
        status = file_status(path)
        # A file that was replaced is another model.
        key = (path, file_version(status), dtype)

        def load() -> Network:
            return self.compute(lambda: self._load(path, status, dtype))

        with self.models.use(key, path.stem, status.st_size, load) as network:
            self._last_keys[path, dtype] = key
            yield network

    def _load(self, path: Path, status: os.stat_result, dtype: torch.dtype) -> Network:
        def cache_for(dtype: torch.dtype) -> ProbeCache:
            return ProbeCache(self.settings.model_dir, path, status, self.device, dtype)

        probe_cache = cache_for(dtype)
        if dtype == torch.float32:
            return Network(load_descriptor(path), self.device, dtype, probe_cache)
        probe_cache.begin()
        descriptor = load_descriptor(path)
        if not probe_cache.find().is_precise:
            dtype, probe_cache = torch.float32, cache_for(torch.float32)
        return Network(descriptor, self.device, dtype, probe_cache)

    def _memory_for_tiles(self, share: float | None) -> int:
        if share is None:
            share = _DEVICE_SHARE if self.device.type == "cuda" else _HOST_SHARE
        return int(free_bytes(self.device) * share)


def _precision(config: EsrganConfig) -> Precision:
    return config.precision if config.use_fp16 else "fp32"
