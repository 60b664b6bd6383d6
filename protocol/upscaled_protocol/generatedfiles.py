"""Files in the repository that a program writes: written anew, or checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def write_or_check(folder: Path, texts: Mapping[str, str], *, check: bool) -> int:
    """Write each file, or name on stderr those that are missing or have another text.

    texts: by the file's path below `folder`, which is made if it is missing.
    Returns the exit status: 1 if the check found such a file, else 0.
    """
    status = 0
    for name, text in texts.items():
        path = folder / name
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            status = 1
            sys.stderr.write(f"{path} is stale; run `make schema`\n")
    return status
