"""Forks: prepares every client before one, so that no change is half done in the child."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What has to prepare for a fork."""

    def before_fork(self) -> None:
        """Finish every change, and keep the locks."""

    def after_fork_in_parent(self) -> None:
        """Release the locks."""

    def after_fork_in_child(self) -> None:
        """Start again: no other thread exists here, and locks may be held without an owner."""


_all: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forking: list[Forkable] = []
_fork_lock = threading.RLock()


def prepare_for_forks(one: Forkable) -> None:
    """Call its methods around each fork, as long as the object exists."""
    _all.add(one)


def wait_for_fork() -> None:
    """Wait until no fork is in progress: in the child, a thread that was started meanwhile must not
    use what has not started again yet."""
    with _fork_lock:
        pass


def _before() -> None:
    _fork_lock.acquire()
    _forking[:] = list(_all)
    for one in _forking:
        one.before_fork()


def _after_in_parent() -> None:
    for one in reversed(_forking):
        one.after_fork_in_parent()
    _forking.clear()
    _fork_lock.release()


def _after_in_child() -> None:
    for one in _forking:
        one.after_fork_in_child()
    _forking.clear()
    _fork_lock.release()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
