"""The callbacks of the program that uses a client."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

_LOG = logging.getLogger("upscaled")


def guarded(callback: Callable[[Any], object]) -> Callable[[Any], None]:
    """The callback, whose exceptions are logged: they must not end the thread that calls it. If the
    program has no log, `threading.excepthook` gets them. Only a Ctrl-C or an exit in the main
    thread is raised."""

    def call(message: Any) -> None:
        try:
            callback(message)
        except BaseException as error:  # also a SystemExit, which would end the thread silently
            is_exit = not isinstance(error, Exception)
            if is_exit and threading.current_thread() is threading.main_thread():
                raise
            if _is_log_handled():
                _LOG.exception("a callback failed")
            else:
                what = type(error), error, error.__traceback__, threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs(what))

    return call


def _is_log_handled() -> bool:
    """True if the program handles the log. This package's own handler writes nothing."""
    logger: logging.Logger | None = _LOG
    while logger is not None:
        if any(not isinstance(one, logging.NullHandler) for one in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
