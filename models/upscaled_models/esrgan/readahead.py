"""Runs an iterator ahead of its reader, in its own thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Generic, TypeVar

from upscaled_imaging.leftbehind import LOOK_S, LeftBehind

ItemT = TypeVar("ItemT")

# Items that are ready before they are read. One keeps the reader busy; two even out the pace.
_AHEAD = 2
# Some files are decoded whole before their first row comes. Other pictures must not wait for that.
_left_behind = LeftBehind(allowed=1)


class _ReadAhead(Generic[ItemT]):
    def __init__(self, items: Iterator[ItemT], check: Callable[[], None]) -> None:
        self._items = items
        self._check = check
        self._ready: deque[ItemT] = deque()
        self._changed = Condition()
        self._closed = False
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._run, name="decoder", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[ItemT]:
        while True:
            with self._changed:
                while not self._changed.wait_for(lambda: self._ready or self._ended, LOOK_S):
                    self._check()
                if not self._ready:
                    if self._failure is not None:
                        raise self._failure
                    return
                item = self._ready.popleft()
                self._changed.notify_all()
            yield item

    def close(self) -> None:
        """Stop the thread at its next item. Do not wait if that takes long."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        _left_behind.end(self._thread)
        # Its traceback refers to this object: only Python's collector would free such a circle.
        self._failure = None

    def _run(self) -> None:
        try:
            _left_behind.wait()
            for item in self._items:
                with self._changed:
                    self._changed.wait_for(lambda: len(self._ready) < _AHEAD or self._closed)
                    if self._closed:
                        return
                    self._ready.append(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            self._failure = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()


@contextmanager
def read_ahead(items: Iterator[ItemT], check: Callable[[], None]) -> Iterator[Iterator[ItemT]]:
    """Begin to run `items` at once. Its exceptions are raised in the reader.

    check: called while the reader waits for an item; an exception of it ends the wait. When the
    context is left the thread has ended, or ends with its current item.
    """
    running = _ReadAhead(items, check)
    try:
        yield iter(running)
    finally:
        running.close()
