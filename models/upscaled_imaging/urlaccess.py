"""Which object storage, and which presigned URLs, a job may name."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from urllib.parse import SplitResult, unquote, urlsplit

from upscaled_protocol.errors import ErrorCode, JobError

# The schemes of `--allow-url`, and the package that each needs.
_PACKAGES = {"s3": "obstore", "gs": "obstore", "az": "obstore", "https": None, "http": None}


def url_prefix(text: str) -> str:
    """The beginning of allowed URLs. Raises what `argparse` shows as an error of usage."""
    scheme, colon, rest = text.partition("://")
    if not colon or not rest or scheme not in _PACKAGES or "?" in text:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no prefix of URLs, as in s3://bucket/folder/ or https://host/"
        )
    package = _PACKAGES[scheme]
    if package is not None and find_spec(package) is None:
        raise argparse.ArgumentTypeError(
            f"{scheme}:// needs a package that is not installed: run "
            "`pip install 'upscaled[storage]'`"
        )
    return text


def allowed_url(field: str, url: str, prefixes: Sequence[str]) -> SplitResult:
    """The parts of a job's URL. `prefixes`: the operator's, such as s3://bucket/folder/.

    Raises `JobError`: path_not_allowed unless a prefix covers the URL, invalid_job if it is none.
    No error repeats the query, because that of a presigned URL is a secret.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise JobError(ErrorCode.INVALID_JOB, f"{field} is no valid URL") from None
    place = place_of(url)
    name = parts.path.rpartition("/")[2]
    if not parts.hostname or not name or port == 0 or parts.fragment or not place.isprintable():
        raise JobError(ErrorCode.INVALID_JOB, f"{field} is no valid URL of an object")
    # A server may resolve these, and leave the prefix.
    moves = {".", ".."} & set(unquote(parts.path).replace("\\", "/").split("/"))
    if moves or not any(place.startswith(f"{prefix.rstrip('/')}/") for prefix in prefixes):
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{field}: {place} is not below a URL that this daemon may use: the operator allows "
            "them by --allow-url",
        )
    return parts


def place_of(url: str) -> str:
    """A URL without its query, which may hold a signature."""
    return url.partition("?")[0]
