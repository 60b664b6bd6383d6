"""Forked processes: which clients there are, so that none is half changed in a child."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """What is told of a fork."""

    def before_fork(self) -> None:
        """Nothing may be half done in the child."""

    def after_fork_in_parent(self) -> None:
        """Go on."""

    def after_fork_in_child(self) -> None:
        """No other thread is here, and locks may be held by those that are not."""


_all: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forking: list[Forkable] = []


def tell_of_forks(one: Forkable) -> None:
    """From now on it is told, as long as it lives."""
    _all.add(one)


def _before() -> None:
    _forking[:] = list(_all)
    for one in _forking:
        one.before_fork()


def _after_in_parent() -> None:
    for one in reversed(_forking):
        one.after_fork_in_parent()
    _forking.clear()


def _after_in_child() -> None:
    for one in _forking:
        one.after_fork_in_child()
    _forking.clear()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
