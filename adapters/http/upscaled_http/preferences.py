"""The preferences of a request: to wait for the job's end, and the kind of answer."""

from __future__ import annotations

import math
import re

from starlette.requests import Request

from upscaled_http.fields import quoted
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.choices import FORMATS, SUFFIXES, OutputFormat

_PREFER_WAIT = re.compile(
    r'(?:^|[,;])\s*wait\s*=\s*"?(\d+(?:\.\d+)?)"?\s*(?=[,;]|$)', re.ASCII | re.IGNORECASE
)
_WEIGHT = re.compile(r";\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*(?:;|$)", re.ASCII)
MAX_KEY_LENGTH = 255


def wait_of(request: Request, most_s: float) -> float | None:
    """How long the client wants to wait, from `?wait=S` or `Prefer: wait=S` (RFC 7240), at most
    `most_s`; None without either. Raises `ProblemError`."""
    text = request.query_params.get("wait")
    if text is None:
        found = _PREFER_WAIT.search(request.headers.get("prefer", ""))
        # A preference that cannot be read is ignored, as the RFC says.
        return None if found is None else min(float(found[1]), most_s)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ProblemError.field("wait", "wait is a number of seconds, 0 or above.")
    return min(seconds, most_s)


def refuse_parameters(request: Request, *known: str) -> None:
    """Raise `ProblemError` for a parameter of the address that is none of these: a picture's
    options there would have no effect."""
    for name in request.query_params:
        if name not in known:
            raise ProblemError.field(
                name[:100],
                f"The address takes no parameter {quoted(name)}: send the picture's options as "
                "fields of the form, or of the JSON.",
            )


def wants_picture(request: Request) -> bool:
    """True if the preferred type in `Accept` is a picture."""
    return _media_ranges(request.headers.get("accept", ""))[0][0].startswith("image/")


def picture_format(accept: str) -> OutputFormat:
    """The picture that an `Accept` prefers, PNG if it leaves the choice. Raises `ProblemError`."""
    ranges = _media_ranges(accept)
    named = {name for name, _ in ranges}
    for name, weight in ranges:
        for format_ in SUFFIXES:
            own = f"image/{format_}"
            is_left_open = name in ("image/*", "*/*") and own not in named
            if weight > 0 and (name == own or is_left_open):
                return format_
    types = ", ".join(f"image/{format_}" for format_ in SUFFIXES)
    raise ProblemError(
        HttpCode.NOT_ACCEPTABLE, f"Accept names no picture that is written here: there are {types}."
    )


def _media_ranges(accept: str) -> list[tuple[str, float]]:
    """The types of an `Accept` with their weights (RFC 9110, 12.5.1), the preferred one first."""
    ranges = []
    for part in accept.lower().split(","):
        kind, _, subtype = part.partition(";")[0].strip().partition("/")
        weight = _WEIGHT.search(part)
        name = f"{kind}/{FORMATS.get(f'.{subtype}', subtype)}"  # also `image/jpg`
        ranges.append((name, float(weight[1]) if weight else 1.0))
    return sorted(ranges, key=lambda one: -one[1])


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`, without quotes; None if there is none. Raises `ProblemError`."""
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    key = text.strip().removeprefix('"').removesuffix('"')
    if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise ProblemError.field(
            "Idempotency-Key",
            f"An Idempotency-Key has 1 to {MAX_KEY_LENGTH} visible ASCII characters.",
        )
    return key
