"""File names are UTF-8 bytes in every process of ours, whatever the locale says.

A path in a job line is UTF-8. In a Latin-1 locale, or with forced ASCII, Python would look for a
file of other bytes, or of none. Its UTF-8 mode (PEP 540) settles that for every `open` at once, for
arguments, logs and child processes too; it can only be switched on when the interpreter starts.
"""

from __future__ import annotations

import os
import sys


def require_utf8() -> None:
    """Start this program anew in UTF-8 mode, unless it has UTF-8 already. Call before anything is
    read from stdin. A UTF-8 locale has it, and Python switches it on by itself for C and POSIX."""
    if sys.getfilesystemencoding() == "utf-8" or not sys.executable:
        return
    if os.environ.get("PYTHONUTF8") == "1":  # and yet it is off: starting anew would not end
        return
    # For Python children as well. The option is for an interpreter that ignores the environment.
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
