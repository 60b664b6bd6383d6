"""Where torch keeps what it compiles, on a host that has no folder for temporary files.

Importing torch's compiler makes that folder below the one for temporary files. If there is none (a
read-only or full /tmp), the import fails halfway, and torch cannot be imported in that process any
more. Networks run here without that compiler, so any folder will do: nothing is written to it.
"""

from __future__ import annotations

import os
import tempfile

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"


def settle_torch_cache() -> None:
    """Call before the first import of torch. What the user has set is left alone."""
    if _VARIABLE in os.environ:
        return
    try:
        # Made and left again: a name of torch's own may be taken by another user.
        with tempfile.TemporaryDirectory():
            pass
    except OSError:
        os.environ[_VARIABLE] = os.sep
