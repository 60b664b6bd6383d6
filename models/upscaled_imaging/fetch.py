"""A picture from a URL, without giving a job access to this machine's private network.

`Access.urls` decides which hosts are allowed. The connection goes to the address that was checked,
and each redirect is checked in the same way. Proxies of the environment are not used.
"""

from __future__ import annotations

import http.client
import time
from typing import BinaryIO
from urllib.parse import SplitResult, urljoin, urlsplit

from upscaled_imaging.context import PictureContext
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.webrequest import open_response
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.urlpolicy import HostNotAllowedError, HostNotFoundError

# From the first name look-up to the last byte, with redirects: half a gigabyte at 70 Mbit/s.
TIME_LIMIT_S = 60.0
_MAX_REDIRECTS = 5
# RFC 1035, 2.3.4. International names are never shorter in their encoded form.
_LONGEST_HOST = 253
# The most characters of a server's own text in an error.
_LONGEST_REASON = 100
_CHUNK_BYTES = 256 * 1024
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)


def fetch(url: str, file: BinaryIO, settings: PictureSettings, context: PictureContext) -> None:
    """Write what `url` gives to `file`.

    Raises `JobError`: path_not_allowed for another scheme, or a host that `Access.urls` does not
    allow; input_too_large above `Limits.max_input_bytes`; input_not_found; input_unreadable if not
    all of it arrives in time.
    """
    deadline = time.monotonic() + TIME_LIMIT_S
    # Twice the limit, because a name look-up cannot be interrupted.
    context.progress(0, "fetch", budget_s=2 * TIME_LIMIT_S)
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            parts = _parts(url)
            with open_response("GET", parts, settings.access.urls, context, deadline) as response:
                if response.status not in _REDIRECTS:
                    _receive(response, file, settings.limits.max_input_bytes)
                    # A stream that the watcher shut looks like one that has ended.
                    context.check_cancelled()
                    if time.monotonic() < deadline:
                        return
                    raise TimeoutError
                url = _redirected(url, response.headers.get("Location", ""))
    except HostNotFoundError as error:
        raise JobError(ErrorCode.INPUT_NOT_FOUND, str(error)) from None
    except HostNotAllowedError as error:
        raise JobError(ErrorCode.PATH_NOT_ALLOWED, f"image_url: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        context.check_cancelled()
        if time.monotonic() >= deadline:
            raise _unreadable(f"image_url took longer than {TIME_LIMIT_S:g} s") from None
        raise _unreadable(f"image_url cannot be fetched: {error}") from None
    raise _unreadable(f"image_url redirects more than {_MAX_REDIRECTS} times")


def too_large(limit_bytes: int) -> JobError:
    """The error of an input with too many bytes."""
    return JobError(
        ErrorCode.INPUT_TOO_LARGE,
        f"the input passes the limit of {limit_bytes / 2**20:.0f} MiB: give a smaller or a "
        "compressed file, or raise the limit of megapixels, MAX_INPUT_MEGAPIXELS",
    )


def keep(data: bytes | memoryview, file: BinaryIO) -> None:
    """Append received data. Raises `JobError`: a full disk is no fault of the network."""
    try:
        file.write(data)
        file.flush()
    except OSError as error:
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE, f"the data of image_url cannot be stored: {error.strerror}"
        ) from None


def _redirected(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise _unreadable("image_url redirects to something that is no valid URL") from None


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = 0 < len(parts.hostname or "") <= _LONGEST_HOST and parts.port != 0
    except ValueError:
        raise _unreadable("image_url is no valid URL") from None
    if parts.scheme not in ("http", "https"):
        raise JobError(ErrorCode.PATH_NOT_ALLOWED, "image_url must begin with http:// or https://")
    if not valid:
        raise _unreadable("image_url is no valid URL")
    return parts


def _receive(response: http.client.HTTPResponse, file: BinaryIO, limit_bytes: int) -> None:
    if response.status in _GONE:
        raise JobError(ErrorCode.INPUT_NOT_FOUND, f"image_url answers {response.status}")
    if response.status != http.client.OK:
        reason = "".join(filter(str.isprintable, response.reason[:_LONGEST_REASON]))
        raise _unreadable(f"image_url answers {response.status} {reason}")
    announced = response.length
    if announced is not None and announced > limit_bytes:
        raise too_large(limit_bytes)
    received = 0
    while chunk := response.read(_CHUNK_BYTES):
        received += len(chunk)
        if received > limit_bytes:
            raise too_large(limit_bytes)
        keep(chunk, file)
    if announced is not None and received < announced:
        raise _unreadable(f"image_url ended after {received} of {announced} bytes")


def _unreadable(message: str) -> JobError:
    return JobError(ErrorCode.INPUT_UNREADABLE, message)
