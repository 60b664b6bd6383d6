"""Runs supervisord, also as the first process of a container, with a useful exit status.

supervisord exits with 0 even after its program has failed for good, and a container that exits with
0 is not restarted. `watch` writes a file in that case (`FAILED_MARK`), and the exit status is 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# The variable with the path of that file; `watch` inherits it from supervisord.
FAILED_MARK = "SUPERVISORD_FAILED_MARK"
_CONFIGURATION = Path(__file__).with_name("supervisord.conf")


def main(argv: Sequence[str] | None = None) -> int:
    """Run supervisord with its own arguments, by default in the foreground with the configuration
    beside this file. Returns 1 if the program failed for good, else supervisord's own status."""
    from supervisor.supervisord import main as run_supervisord

    arguments = list(sys.argv[1:] if argv is None else argv) or ["-n", "-c", str(_CONFIGURATION)]
    descriptor, mark = tempfile.mkstemp(prefix="upscaled-failed-")
    os.close(descriptor)
    os.environ[FAILED_MARK] = mark
    try:
        run_supervisord(args=arguments)
        return 1 if Path(mark).stat().st_size else 0
    finally:
        with suppress(OSError):
            Path(mark).unlink()
