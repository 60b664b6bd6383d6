"""The models in memory: loaded once, shared by jobs, unloaded for lack of memory or use."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Condition
from typing import Protocol, TypeVar

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.memorygroup import total_bytes


class Model(Protocol):
    """What a cache needs to know about a model."""

    @property
    def size_bytes(self) -> int:
        """Memory that its weights take."""


ModelT = TypeVar("ModelT", bound=Model)

# The share of the host's memory for models. Pictures need memory too.
_DEFAULT_SHARE = 0.5


def file_status(path: Path) -> os.stat_result:
    """The status of a model's file. Raises `JobError` (model_not_found)."""
    try:
        return path.stat()
    except OSError as error:
        raise JobError(
            ErrorCode.MODEL_NOT_FOUND, f"{path} cannot be read: {error.strerror}"
        ) from None


def file_version(status: os.stat_result) -> tuple[int, int, int]:
    """What differs if a model's file was replaced or written again.

    The time of its content alone may stay the same: archives, package managers and `cp -p` set it.
    """
    return status.st_ctime_ns, status.st_mtime_ns, status.st_size


@dataclass
class _Entry:
    name: str
    model: Model
    users: int
    last_used: float


class ModelCache:
    """Models by key, within a budget: the model that was used longest ago is unloaded first.

    A model in use is never unloaded. The model that was used last may exceed the budget, so that a
    job that fits the machine is not refused, and the next job with it need not load it again.
    Safe to use from any thread: one thread loads a model, and the others that want it wait.

    budget_bytes: memory for models; None for no limit.
    idle_s: `unload_idle` unloads a model so many seconds after its last use; None for never.
    """

    def __init__(
        self,
        budget_bytes: int | None = None,
        idle_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget_bytes = budget_bytes
        self._idle_s = idle_s
        self._clock = clock
        # In the order of their last use.
        self._entries: dict[Hashable, _Entry] = {}
        self._loading: set[Hashable] = set()
        self._changed = Condition()

    @contextmanager
    def use(
        self, key: Hashable, name: str, size_bytes: int, load: Callable[[], ModelT]
    ) -> Iterator[ModelT]:
        """Hold the model of that key. If it is not in memory, `load` loads it.

        name: for `names`. size_bytes: the memory that it will take, which is freed before.
        Raises what `load` raises; the next user then loads it again.
        """
        entry = self._acquire(key, name, size_bytes, load)
        try:
            yield entry.model  # type: ignore[misc]  # a key always means the same kind of model
        finally:
            with self._changed:
                entry.users -= 1
                entry.last_used = self._clock()
                if key in self._entries:
                    self._entries[key] = self._entries.pop(key)
                self._evict(0, kept=key)

    def names(self) -> list[str]:
        """The models in memory in the order of their last use, each name once."""
        with self._changed:
            return list(dict.fromkeys(entry.name for entry in self._entries.values()))

    @property
    def size_bytes(self) -> int:
        """Memory that the loaded models' weights take."""
        with self._changed:
            return self._total()

    def unload_unused(self) -> int:
        """Unload every model that no job uses. Returns how many those were."""
        return self._unload(lambda _: True)

    def unload_idle(self) -> int:
        """Unload the models that no job has used for `idle_s`. Returns how many those were."""
        idle_s = self._idle_s
        if idle_s is None:
            return 0
        now = self._clock()
        return self._unload(lambda entry: now - entry.last_used >= idle_s)

    def _acquire(
        self, key: Hashable, name: str, size_bytes: int, load: Callable[[], Model]
    ) -> _Entry:
        with self._changed:
            self._changed.wait_for(lambda: key not in self._loading)
            entry = self._entries.get(key)
            if entry is not None:
                entry.users += 1
                return entry
            self._loading.add(key)
            self._evict(size_bytes)
        try:
            entry = _Entry(name, load(), 1, self._clock())
            with self._changed:
                self._entries[key] = entry
                self._evict(0, kept=key)
            return entry
        finally:
            with self._changed:
                self._loading.discard(key)
                self._changed.notify_all()

    def _total(self) -> int:
        return sum(entry.model.size_bytes for entry in self._entries.values())

    def _evict(self, wanted_bytes: int, kept: Hashable = None) -> None:
        if self._budget_bytes is None:
            return
        for key, entry in list(self._entries.items()):
            if self._total() + wanted_bytes <= self._budget_bytes:
                return
            if not entry.users and key != kept:
                del self._entries[key]

    def _unload(self, ripe: Callable[[_Entry], bool]) -> int:
        with self._changed:
            keys = [key for key, entry in self._entries.items() if not entry.users and ripe(entry)]
            for key in keys:
                del self._entries[key]
            return len(keys)


@cache
def shared_models(
    budget_gb: float | None, idle_s: float | None, device_bytes: int | None = None
) -> ModelCache:
    """The cache of this process for models within these limits.

    Engines that share a device share it, so that an engine can unload another engine's models.
    Without a budget it is all of the accelerator's memory, `device_bytes`, or half of the host's if
    there is no accelerator.
    """
    if budget_gb is not None:
        return ModelCache(int(budget_gb * 1e9), idle_s)
    if device_bytes is not None:
        return ModelCache(device_bytes, idle_s)
    return ModelCache(int(total_bytes() * _DEFAULT_SHARE), idle_s)
