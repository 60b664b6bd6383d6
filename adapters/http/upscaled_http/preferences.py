"""What a request prefers: to wait for the job's end, and a picture or the job as the answer."""

from __future__ import annotations

import math
import re

from starlette.requests import Request

from upscaled_http.problems import ProblemError

_PREFER_WAIT = re.compile(
    r'(?:^|[,;])\s*wait\s*=\s*"?(\d+(?:\.\d+)?)"?\s*(?=[,;]|$)', re.ASCII | re.IGNORECASE
)
_MAX_KEY = 255


def wait_of(request: Request, most_s: float) -> float | None:
    """Seconds that the client is willing to wait: `?wait=S`, or `Prefer: wait=S` (RFC 7240). None
    without either. Raises `ProblemError`."""
    text = request.query_params.get("wait")
    if text is None:
        found = _PREFER_WAIT.search(request.headers.get("prefer", ""))
        # A preference that is not understood is passed over, as the RFC has it.
        return None if found is None else min(float(found[1]), most_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ProblemError.field("wait", "wait is a number of seconds, 0 or above.")
    return min(seconds, most_s)


def wants_picture(request: Request) -> bool:
    """Whether the client asks for a picture and for nothing else first."""
    first = request.headers.get("accept", "").partition(",")[0]
    return first.strip().lower().startswith("image/")


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`, quoted or not. Raises `ProblemError`."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    key = text.strip().removeprefix('"').removesuffix('"')
    if not 0 < len(key) <= _MAX_KEY or not key.isascii() or not key.isprintable():
        raise ProblemError.field(
            "Idempotency-Key", f"An Idempotency-Key has 1 to {_MAX_KEY} visible ASCII characters."
        )
    return key
