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
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from upscaled_protocol.configs import DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.destinations import Destinations
from upscaled_protocol.messages import CropInfo, Size

Phase = Literal["load", "decode", "inference", "encode"]
ConfigT = TypeVar("ConfigT")


@dataclass(frozen=True)
class Settings:
    """How the operator runs this worker; the same for all of its jobs."""

    model_dir: Path
    output_dir: Path | None = None
    allowed_roots: tuple[Path, ...] = ()
    urls: Destinations = field(default_factory=Destinations)
    device: str = "auto"
    threads: int | None = None
    default_factor: float = DEFAULT_UPSCALE_FACTOR
    default_dpi: int = DEFAULT_DPI
    max_input_megapixels: float = 250.0
    max_input_bytes: int = 512 * 1024 * 1024
    max_output_megapixels: float = 4000.0
    model_memory_gb: float | None = None
    model_idle_s: float | None = None
    preload: tuple[str, ...] = ()
    flux_compile: bool = False
    # Engines that call a service: jobs and calls at once, calls in any minute, and the time that
    # one call may take with all its retries.
    cloud_jobs: int = 10
    cloud_calls_per_minute: int = 50
    cloud_budget_s: float = 300.0


@dataclass(frozen=True)
class Outcome:
    """What a finished job tells; the worker adds times and attempt and sends it as `result`."""

    output_path: str | None = None
    output_base64: str | None = None
    input_size: Size | None = None
    output_size: Size | None = None
    scale_factor: float | None = None
    crop_info: CropInfo | None = None
    model: str | None = None
    device: str | None = None
    precision: str | None = None
    upstream_calls: int | None = None
    warnings: list[str] = field(default_factory=list)


class Context(Protocol):
    """The running job's line to the worker. Safe to use from the job's own threads."""

    job_id: str
    attempt: int
    # What a supervisor calls this acceptance of the job, the same for each of its runs.
    accepted_as: str | None

    def progress(
        self,
        percent: float,
        stage: str,
        *,
        done: int | None = None,
        total: int | None = None,
        budget_s: float | None = None,
        tail_s: float = 0.0,
    ) -> None:
        """Tell how far the job is; it is also the heartbeat.

        `percent` 0 to 100, never falling (a lower one is raised to the last), in proportion to the
        time that it takes; the clock for the time left starts with the last 0. `budget_s` is the
        silence to allow from here on: give it before work that can take long. `tail_s` is what
        follows 100 percent, as far as that is known.
        Raises `JobError` (cancelled) where the job was cancelled.
        """

    def check_cancelled(self) -> None:
        """Raise `JobError` (cancelled) where the job was cancelled. Cheap: call it every tile."""

    def phase(self, phase: Phase) -> AbstractContextManager[None]:
        """Time a stretch of work; stretches of one phase add up, threads may overlap."""

    def device_turn(self) -> AbstractContextManager[None]:
        """Have the lane's device alone. Decode before it and encode after it: jobs of a lane
        overlap there. Waiting ends with `JobError` (cancelled) where the job is cancelled."""

    def warn(self, text: str) -> None:
        """Add one sentence to the result's `warnings`; a repeated one is dropped."""


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
