"""The time of encoders that need the whole picture, for the estimate of the time left."""

from __future__ import annotations

# Seconds per megapixel on one core, used until an encoder of this process was measured.
_FIRST_GUESS = {"webp": 0.4, "avif": 1.0}

_seen = dict(_FIRST_GUESS)


def expected_s(kind: str, pixels: int) -> float:
    """Seconds from the last row to the end of the file; 0 for formats that are written by rows."""
    return _seen.get(kind, 0.0) * pixels / 1e6


def keep_encode_time(kind: str, pixels: int, seconds: float) -> None:
    """Keep the time that an encoder took."""
    if kind in _seen:
        _seen[kind] = seconds / pixels * 1e6
