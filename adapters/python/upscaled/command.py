"""The daemon that is started by default."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def default_command() -> Sequence[str]:
    """`upscaled run` of this very installation.

    Supervised: a crash costs the running job an attempt, not the whole run. -P: the working folder
    may be anybody's, and nothing is to be imported from it.
    """
    name = Path(sys.executable or "").name
    if name.startswith(("python", "pypy")):
        return (sys.executable, "-P", "-m", "upscaled_cli", "run")
    # Python inside another program, as in uWSGI.
    beside = Path(sys.prefix) / "bin" / "upscaled"
    found = str(beside) if beside.is_file() else shutil.which("upscaled")
    return (found or "upscaled", "run")
