"""The default command of the daemon."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def default_command() -> Sequence[str]:
    """`upscaled run` of this installation.

    It is supervised: a crash costs the running job an attempt, and ends nothing else. -P: Python
    must not import from the working folder, which may belong to another user.
    """
    name = Path(sys.executable or "").name
    if name.startswith(("python", "pypy")):
        return (sys.executable, "-P", "-m", "upscaled_cli", "run")
    # Python inside another program, as in uWSGI.
    beside = Path(sys.prefix) / "bin" / "upscaled"
    found = str(beside) if beside.is_file() else shutil.which("upscaled")
    return (found or "upscaled", "run")
