"""Extended attributes of files (xattr(7)), on the systems whose Python has them: Linux.

On other systems, and on file systems without attributes, nothing is stored and nothing is found.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def set_attribute(file: int, name: str, value: bytes | None) -> None:
    """Store a value with the file of this descriptor; None removes it."""
    if sys.platform == "linux":
        with suppress(OSError):
            if value is None:
                os.removexattr(file, name)
            else:
                os.setxattr(file, name, value)


def get_attribute(file: int | str, name: str) -> bytes | None:
    """The value stored with the file of this descriptor or path; None if there is none. A symbolic
    link is not followed."""
    if sys.platform == "linux":
        with suppress(OSError):
            return os.getxattr(file, name, follow_symlinks=isinstance(file, int))
    return None
