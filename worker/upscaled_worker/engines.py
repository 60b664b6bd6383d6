"""The engines of a worker: how they start, and how one that could not is started again."""

from __future__ import annotations

import threading
import time
from typing import Any

from upscaled_models.engine import Device, Engine
from upscaled_protocol.errors import JobError
from upscaled_protocol.lineage import from_existing_folder
from upscaled_protocol.log import Logger
from upscaled_worker.job import RunningJob, traceback_of
from upscaled_worker.starvation import start_failure

# An engine that is started again may load what it is to preload, as at the start.
_RETRY_BUDGET_S = 600.0


class Engines:
    """One engine per method. Safe to use from any thread."""

    def __init__(self, engines: dict[str, Engine[Any]], log: Logger) -> None:
        self._engines = engines
        self._log = log
        self._broken: dict[str, JobError] = {}
        self._retry_at: dict[str, float] = {}
        self._retrying = threading.Lock()
        self._proven: set[str] = set()  # methods that a job has succeeded with

    def __contains__(self, method: str) -> bool:
        return method in self._engines

    def __getitem__(self, method: str) -> Engine[Any]:
        return self._engines[method]

    @property
    def methods(self) -> list[str]:
        """All that were asked for, the broken ones too."""
        return list(self._engines)

    @property
    def working(self) -> list[str]:
        """The methods whose engine has started."""
        return [method for method in self._engines if method not in self._broken]

    def unavailable(self) -> dict[str, str]:
        """The methods whose engine has started, but that no job can use now, with what is lacking
        and what to do about it."""
        return {
            method: why
            for method in self.working
            if method not in self._proven and (why := self._engines[method].lacks()) is not None
        }

    def note_success(self, method: str) -> None:
        """A job has succeeded: whatever seemed to be missing is there."""
        self._proven.add(method)

    @property
    def faults(self) -> str | None:
        """What is wrong with the broken engines; None if there are none."""
        return "; ".join(error.message for error in self._broken.values()) or None

    def start(self) -> None:
        """Start all of them. One that cannot is broken, and harms no other."""
        for method in self._engines:
            self._start(method)

    def require(self, job: RunningJob) -> bool:
        """Start the job's engine again if it is broken: what it lacked may be there now. True if
        that has mended it.

        Raises `JobError` with what is wrong if it is still broken, at once if it was tried a
        moment ago: at most half of the time goes into attempts that fail.
        """
        method = job.job.method
        if method not in self._broken:
            return False
        with self._retrying:
            if method not in self._broken:
                return False
            if time.monotonic() >= self._retry_at.get(method, 0.0):
                job.progress(0, "load", budget_s=_RETRY_BUDGET_S)
                began = time.monotonic()
                self._start(method)
                self._retry_at[method] = 2 * time.monotonic() - began
            if method in self._broken:
                raise self._broken[method]
            return True

    def models(self) -> list[str]:
        """The models that are usable without a download."""
        return [name for method in self.working for name in self._engines[method].models()]

    def models_loaded(self) -> list[str]:
        """The models in memory."""
        return [name for engine in self._engines.values() for name in engine.models_loaded()]

    def device(self) -> Device | None:
        """The device that the engines compute on; None if none of them has started."""
        devices = [engine.device() for engine in self._engines.values()]
        return next((device for device in devices if device is not None), None)

    def trim(self, *, idle_only: bool = False) -> None:
        """Free caches and unload the models that no job is using."""
        for engine in self._engines.values():
            engine.trim(idle_only=idle_only)

    def close(self) -> None:
        """End what the engines hold; no job may run any more."""
        for engine in self._engines.values():
            engine.close()

    def _start(self, method: str) -> None:
        try:
            with from_existing_folder():
                self._engines[method].preimport()
            self._engines[method].start()
        except JobError as error:
            self._break(method, error)
        except BaseException as error:  # noqa: BLE001 - also a library's SystemExit
            self._log.log("error", "engine_broken", traceback=traceback_of(error))
            self._break(method, start_failure(method, error))
        else:
            self._broken.pop(method, None)

    def _break(self, method: str, error: JobError) -> None:
        self._broken[method] = error
        self._log.log("error", "engine_broken", method=method, detail=error.message)
