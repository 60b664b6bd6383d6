"""What a file is if it is no weights file: a login page, a pointer, an archive, a picture.

Imports no torch and no NumPy.
"""

from __future__ import annotations

from upscaled_imaging.kinds import kind_of


def what_it_is_instead(head: bytes) -> str | None:
    """What kind of file begins with `head`, and what to do, as the rest of a sentence.

    None if the kind is not known.
    """
    if not head:
        return "it is empty: fetch the file again"
    kind = kind_of(head) if head.strip(b"\0") else None
    if kind is None:
        return None
    if "git-lfs" in kind.name:
        return f"it is {kind.name}, {kind.advice}"
    if "archive" in kind.name:
        return f"it is {kind.name}: unpack it, and give the weights that are inside"
    name = f"a picture ({kind.name})" if kind.is_read else kind.name
    return f"it is {name}, and no weights: fetch the file again"
