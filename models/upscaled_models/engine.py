"""The interface of an engine, and what a running job gives it.

A new engine is one folder with an `Engine` in it, one config model in the protocol, one entry in
`registry.py`, and its models in the catalogue.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from argparse import SUPPRESS
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, Protocol, TypeVar

from upscaled_imaging.context import PictureContext
from upscaled_imaging.settings import PictureSettings
from upscaled_models.catalog import default_model_dir
from upscaled_protocol.faces import Face
from upscaled_protocol.flags import flag
from upscaled_protocol.messages import CropInfo, Size
from upscaled_protocol.optionvalues import above_zero, at_least_zero, count, given_path

ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True, kw_only=True)
class Settings(PictureSettings):
    """The operator's settings of a worker, the same for all of its jobs."""

    model_dir: Path = flag(
        "the folder of weights (default: MODEL_CACHE_DIR or %(default)s)",
        given_path,
        default_factory=default_model_dir,
    )
    device: str = flag("auto, cpu, cuda, cuda:N or mps (default: %(default)s)", default="auto")
    threads: int | None = flag(
        "CPU threads of the network (default: one per core)", count, default=None
    )
    # Set by the supervisor: how many workers share the cores.
    sharers: int = flag(SUPPRESS, count, default=1)
    preload: tuple[str, ...] = flag(
        "load before ready; may be repeated", default=(), metavar="MODEL", collect=tuple
    )
    model_memory_gb: float | None = flag(
        "memory for loaded models; the oldest are unloaded first", above_zero, default=None
    )
    model_idle_s: float | None = flag(
        "unload a model that no job has used for so long", at_least_zero, default=None
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
        "time for one call with its retries (default: %(default)g)", above_zero, default=300.0
    )


@dataclass(frozen=True)
class Outcome:
    """The result of a finished job. The worker adds times and attempt, and sends it as `result`."""

    output_path: str | None = None
    output_base64: str | None = None
    output_url: str | None = None
    output_bytes: int | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    model: str | None = None
    model_reason: str | None = None
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = None
    faces: list[Face] | None = None
    warnings: list[str] = field(default_factory=list)


class Context(PictureContext, Protocol):
    """What the worker gives to a running job. Safe to use from the job's own threads."""

    attempt: int

    def device_turn(self) -> AbstractContextManager[None]:
        """Hold the lane's device alone; the other jobs of the lane wait.

        Decode before and encode after it, because jobs of a lane overlap there. Raises `JobError`
        (cancelled) if the job is cancelled while it waits.
        """


@dataclass(frozen=True)
class Device:
    """The accelerator, or the CPU, that an engine computes on."""

    name: str  # "cuda:0", "cpu", "remote"
    gpu_name: str | None = None
    gpu_memory_free_gb: float | None = None
    gpu_memory_used_mb: float | None = None


class Engine(ABC, Generic[ConfigT]):
    """One method. A worker has one instance; `run` is called by the threads of its lane.

    An engine's module imports nothing heavy: `preimport` does.
    """

    method: ClassVar[str]
    # Engines of one lane share a device: `Context.device_turn` gives it to one job at a time.
    lane: ClassVar[str] = "device"
    # Jobs that run in the lane at once: one computes, one decodes ahead.
    slots: int = 2

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def preimport(cls) -> None:
        """Import the heavy libraries, and start no thread and no device.

        The fork server calls it once, for all workers that it forks.
        """

    def start(self) -> None:
        """Find the device and load the models that `Settings.preload` names.

        Called before the worker is ready. Raises `JobError` if the engine cannot work here.
        """

    @abstractmethod
    def run(self, config: ConfigT, context: Context) -> Outcome:
        """Do one job. Leaves no file behind unless it returns.

        Raises `JobError`, which the host receives; any other exception is an internal error.
        """

    def models(self) -> list[str]:
        """Names of the models that can be used without a download."""
        return []

    def lacks(self) -> str | None:
        """A sentence about what all jobs need and is missing (files, credentials), and what to do.

        None if nothing is missing, as far as that can be seen at once and without a network.
        """
        return None

    def models_loaded(self) -> list[str]:
        """Names of the models in memory."""
        return []

    def device(self) -> Device | None:
        """The device that it computes on, with the memory that is free there now."""
        return None

    def trim(self, *, idle_only: bool = False) -> None:
        """Free caches, and unload the models that no job uses.

        idle_only: unload only those that were idle for longer than the settings allow.
        """

    def close(self) -> None:
        """Release everything, because the process is about to exit."""
