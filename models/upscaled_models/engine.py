"""What an engine is, and what a job may ask of its surroundings while it runs.

A new engine is one folder with an `Engine` in it, one config model in the protocol, one line in
`registry.py` and its catalogue entries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from upscaled_imaging.context import PictureContext
from upscaled_imaging.settings import PictureSettings
from upscaled_models.catalog import default_model_dir
from upscaled_protocol.flags import count, flag
from upscaled_protocol.messages import CropInfo, Size

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class Settings(PictureSettings):
    """How the operator runs this worker; the same for all of its jobs."""

    model_dir: Path = flag(
        "where weights lie (default: MODEL_CACHE_DIR or %(default)s)",
        Path,
        default_factory=default_model_dir,
    )
    device: str = flag("auto, cpu, cuda, cuda:N or mps (default: %(default)s)", default="auto")
    threads: int | None = flag(
        "CPU threads of the network (default: one per core)", int, default=None
    )
    preload: tuple[str, ...] = flag(
        "load before ready; may be repeated", default=(), metavar="MODEL", collect=tuple
    )
    model_memory_gb: float | None = flag(
        "memory for loaded models; the oldest are unloaded first", float, default=None
    )
    model_idle_s: float | None = flag(
        "unload a model that no job has used for so long", float, default=None
    )
    cloud_jobs: int = flag(
        "imagen jobs, and calls, at once (default: MAX_CONCURRENT_JOBS or 10)",
        count,
        default=10,
        variable="MAX_CONCURRENT_JOBS",
    )
    cloud_calls_per_minute: int = flag(
        "imagen calls that begin in any minute (default: %(default)s)", count, default=50
    )
    cloud_budget_s: float = flag(
        "time for one call with its retries (default: %(default)g)", count, default=300
    )


@dataclass(frozen=True)
class Outcome:
    """What a finished job tells; the worker adds times and attempt and sends it as `result`."""

    output_path: str | None = None
    output_base64: str | None = None
    output_url: str | None = None
    output_bytes: int | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    model: str | None = None
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = None
    warnings: list[str] = field(default_factory=list)


class Context(PictureContext, Protocol):
    """The running job's line to the worker. Safe to use from the job's own threads."""

    attempt: int

    def device_turn(self) -> AbstractContextManager[None]:
        """Have the lane's device alone. Decode before it and encode after it: jobs of a lane
        overlap there. Waiting ends with `JobError` (cancelled) if the job is cancelled."""


@dataclass(frozen=True)
class Device:
    """The accelerator, or the CPU, that an engine computes on."""

    name: str  # "cuda:0", "cpu", "remote"
    gpu_name: str | None = None
    gpu_memory_free_gb: float | None = None
    gpu_memory_used_mb: float | None = None


class Engine(ABC, Generic[ConfigT]):
    """One method. Built once a worker; `run` is called by the threads of its lane.

    Importing an engine's module is cheap: heavy libraries come with `preimport`.
    """

    method: ClassVar[str]
    # Engines of one lane share a device, which `Context.device_turn` hands out one job at a time.
    lane: ClassVar[str] = "device"
    # Jobs the lane holds at once: one computing, one decoding ahead.
    slots: int = 2

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def preimport(cls) -> None:
        """Import the heavy libraries and do nothing else: no thread, no device context. A
        template process calls it once and forks workers that have it done."""

    def start(self) -> None:
        """Find the device and load what `Settings.preload` names, before the worker says ready.
        Raises `JobError` where the engine cannot work here at all."""

    @abstractmethod
    def run(self, config: ConfigT, context: Context) -> Outcome:
        """Do one job. Raises `JobError` for what the host should know; anything else is internal.

        Leaves no file behind unless it returns.
        """

    def models(self) -> list[str]:
        """Names of the models that could be used now, without a download."""
        return []

    def lacks(self) -> str | None:
        """What no job can do without and is not here: files, credentials. One sentence that says
        what to do; None if jobs can run, as far as can be seen at once and without a network."""
        return None

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return []

    def device(self) -> Device | None:
        """Where it computes, with what is free there now."""
        return None

    def trim(self, *, idle_only: bool = False) -> None:
        """Give memory back: caches, and every model no job is using (`idle_only`: only those
        past the idle time)."""

    def close(self) -> None:
        """Let go of everything; the process is about to end."""


Engines = Mapping[str, Engine[Any]]
