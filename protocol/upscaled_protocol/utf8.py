"""Makes file names UTF-8 in every process, whatever the locale is.

A path in a job line is UTF-8. In a Latin-1 locale, or with forced ASCII, Python would look for a
file with other bytes in its name. Python's UTF-8 mode (PEP 540) prevents that for every `open`, for
arguments, logs and child processes. It can only be switched on when the interpreter starts.
"""

from __future__ import annotations

import os
import sys


def require_utf8() -> None:
    """Restart this program in UTF-8 mode, unless its file names are UTF-8 already, as in a UTF-8
    locale and in C and POSIX. Call before anything is read from stdin."""
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    if os.environ.get("PYTHONUTF8") == "1":  # it has no effect: the program would restart for ever
        return
    # The variable is for Python children, the option for an interpreter that ignores variables.
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
