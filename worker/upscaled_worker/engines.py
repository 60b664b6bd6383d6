"""The engines of a worker: starting them, running jobs, and starting a broken engine again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from upscaled_models.engine import Device, Engine, Outcome
from upscaled_protocol.envelope import WAITING_STAGE
from upscaled_protocol.errors import JobError
from upscaled_protocol.log import Logger
from upscaled_protocol.processtree import from_existing_folder
from upscaled_worker.job import RunningJob, traceback_of
from upscaled_worker.starvation import start_failure

# An engine that is started again may preload models, as at the first start.
_RETRY_BUDGET_S = 600.0
# How often a job that waits for another job's attempt checks if it is cancelled.
_CANCEL_CHECK_S = 0.1


class Engines:
    """One engine per method. Safe to use from any thread.

    `on_usable` is called when a method that could not be used works.
    """

    def __init__(
        self,
        engines: dict[str, Engine[Any]],
        log: Logger,
        *,
        on_usable: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._log = log
        self._on_usable = on_usable
        self._clock = clock
        self._broken: dict[str, JobError] = {}
        self._retry_at: dict[str, float] = {}
        self._retrying = threading.Lock()
        self._proven: set[str] = set()  # methods of which a job has succeeded
        self._unavailable: dict[str, str] = {}  # as last reported

    def __contains__(self, method: str) -> bool:
        return method in self._engines

    def __getitem__(self, method: str) -> Engine[Any]:
        return self._engines[method]

    @property
    def methods(self) -> list[str]:
        """The methods of all engines, the broken ones too."""
        return list(self._engines)

    @property
    def working(self) -> list[str]:
        """The methods whose engine has started."""
        return [method for method in self._engines if method not in self._broken]

    def unavailable(self) -> dict[str, str]:
        """The methods whose engine has started but that no job can use now, each with what it
        lacks and what to do about it."""
        self._unavailable = {
            method: why
            for method in self.working
            if method not in self._proven and (why := self._engines[method].lacks()) is not None
        }
        return self._unavailable

    @property
    def faults(self) -> str | None:
        """What is wrong with the broken engines; None if no engine is broken."""
        # A copy: a lane's thread may start a broken engine meanwhile.
        return "; ".join(error.message for error in list(self._broken.values())) or None

    def start(self) -> None:
        """Start all of them. An engine that cannot start is broken; the others work."""
        for method in self._engines:
            self._start(method)

    def run(self, job: RunningJob) -> Outcome:
        """Run a job on its engine. Raises what the engine raises, and `JobError` if the engine is
        broken and still cannot start."""
        method = job.job.method
        if method in self._broken:
            self._start_again(job)
        outcome = self._engines[method].run(job.job.config, job)
        if method in self._unavailable and method not in self._proven:
            self._proven.add(method)  # what it lacked is there now
            self._on_usable()
        return outcome

    def models(self) -> list[str]:
        """The models that are usable without a download."""
        return [name for method in self.working for name in self._engines[method].models()]

    def models_loaded(self) -> list[str]:
        """The models in memory."""
        return [name for engine in self._engines.values() for name in engine.models_loaded()]

    def device(self) -> Device | None:
        """The device that the engines compute on; None if no engine has started."""
        devices = [engine.device() for engine in self._engines.values()]
        return next((device for device in devices if device is not None), None)

    def trim(self, *, idle_only: bool = False) -> None:
        """Free caches and unload the models that no job is using."""
        for engine in self._engines.values():
            engine.trim(idle_only=idle_only)

    def close(self) -> None:
        """Have the engines release what they hold. No job may run any more."""
        for engine in self._engines.values():
            engine.close()

    def _start_again(self, job: RunningJob) -> None:
        """Start a broken engine: what it lacked may be there now.

        Raises `JobError` if it is still broken. The pause between two attempts is as long as an
        attempt, so that at most half of the time goes into attempts that fail.
        """
        method = job.job.method
        with self._retry_turn(job):
            if method not in self._broken:
                return  # another job has started it meanwhile
            if self._clock() >= self._retry_at.get(method, 0.0):
                job.progress(0, "load", budget_s=_RETRY_BUDGET_S)
                began = self._clock()
                self._start(method)
                self._retry_at[method] = 2 * self._clock() - began
            if method in self._broken:
                raise self._broken[method]
        self._on_usable()

    @contextmanager
    def _retry_turn(self, job: RunningJob) -> Iterator[None]:
        """One job at a time starts an engine. The others report that they wait, so that they do not
        count as stalled, and can be cancelled."""
        if not self._retrying.acquire(blocking=False):
            job.progress(0, WAITING_STAGE)
            while not self._retrying.acquire(timeout=_CANCEL_CHECK_S):
                job.check_cancelled()
        try:
            yield
        finally:
            self._retrying.release()

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
