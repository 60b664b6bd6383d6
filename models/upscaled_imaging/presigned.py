"""A finished picture to a presigned https URL, by PUT.

The URL's query is a secret: no error repeats it.
"""

from __future__ import annotations

import http.client
import io
import time
from typing import BinaryIO
from urllib.parse import SplitResult

from upscaled_imaging.context import PictureContext
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.urlaccess import allowed_url, place_of
from upscaled_imaging.webrequest import open_response
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.urlpolicy import HostNotFoundError, UrlPolicy

# The time allowed for one attempt.
_ATTEMPT_S = 120.0
# A PUT may be repeated: it always leaves the same object.
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.5
# The operator names these hosts by --allow-url, so they may be in a private network.
_ANY_HOST = UrlPolicy(allow_private=True)


def put(
    url: str, file: BinaryIO, media_type: str, settings: PictureSettings, context: PictureContext
) -> None:
    """Send `file` by one PUT, repeated if the server fails.

    Raises `JobError`: path_not_allowed, output_unwritable, storage_unavailable.
    """
    parts = allowed_url("output_url", url, settings.access.url_prefixes)
    place = place_of(url)
    context.progress(100, "upload", budget_s=_ATTEMPTS * 2 * _ATTEMPT_S)
    for attempt in range(_ATTEMPTS):
        if attempt:
            _pause(_FIRST_PAUSE_S * 4**attempt, context)
        try:
            status = _sent(parts, file, media_type, context)
        except HostNotFoundError as error:
            raise JobError(ErrorCode.STORAGE_UNAVAILABLE, str(error)) from None
        except (OSError, http.client.HTTPException) as error:
            context.check_cancelled()
            reason = str(error) or "no answer in time"
            continue
        if status < http.client.MULTIPLE_CHOICES:
            return
        reason = f"it answers {status}"
        if status < http.client.INTERNAL_SERVER_ERROR and status not in (408, 429):
            raise _refused(place, status)
    raise JobError(
        ErrorCode.STORAGE_UNAVAILABLE,
        f"the storage of {place} cannot be used ({reason}): try again later",
    )


def check_presigned_url(field: str, url: str, settings: PictureSettings) -> None:
    """Refuse a URL before the work. Raises `JobError` (path_not_allowed, invalid_job)."""
    allowed_url(field, url, settings.access.url_prefixes)


def _sent(parts: SplitResult, file: BinaryIO, media_type: str, context: PictureContext) -> int:
    """The status of the answer."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    headers = {"Content-Type": media_type, "Content-Length": str(size)}
    deadline = time.monotonic() + _ATTEMPT_S
    with open_response(
        "PUT", parts, _ANY_HOST, context, deadline, body=file, headers=headers
    ) as response:
        response.read(64 * 1024)
        context.check_cancelled()
        return response.status


def _refused(place: str, status: int) -> JobError:
    if status in (401, 403):
        return JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{place} answers {status}: the URL has expired, or is signed for another request",
        )
    return JobError(ErrorCode.OUTPUT_UNWRITABLE, f"{place} answers {status} to the upload")


def _pause(seconds: float, context: PictureContext) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        context.check_cancelled()
        time.sleep(0.05)
