"""One file over HTTP: resumed after a cut, checked, and renamed when complete.

Until then its name is NAME.part. After a cut or in another run, `Range` asks for the missing bytes
alone. `If-Range` makes the server start again if its file has changed.
"""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from upscaled_cli.partfile import CHUNK_BYTES, LockedError, PartFile, part_of

# A mirror that is silent for this time is given up.
SILENCE_S = 30.0

# Pauses before a source is asked again. After each new byte they start from the first one.
RETRY_PAUSES_S = (1.0, 2.0, 4.0)

_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]


class DownloadError(Exception):
    """Raised when a file could not be fetched. The text has the reason, and what to do."""


class SourcesError(DownloadError):
    """Raised when no source has served the file. is_offline: no source could be connected to."""

    def __init__(self, text: str, *, is_offline: bool) -> None:
        super().__init__(text)
        self.is_offline = is_offline


class _CutError(Exception):
    """Raised when a transfer was cut. The same source may work at the next try."""


class _NoConnectionError(_CutError):
    """Raised when no connection to the source could be made."""


class _UnusableSourceError(Exception):
    """Raised when a source cannot be used. The next one may work."""


def download(
    sources: Sequence[str],
    target: Path,
    *,
    size_bytes: int | None,
    sha256: str | None,
    progress: Progress,
    pauses_s: Sequence[float] = RETRY_PAUSES_S,
) -> None:
    """Fetch `target` from the first of `sources` that serves the right bytes.

    progress: called with the bytes so far and the bytes in all (None if the server does not say).
    Without a checksum, bytes of an earlier run are used again only if they are from the same source
    and their ETag is still the same.

    Raises `DownloadError`. The bytes so far are kept for the next run, unless they are wrong.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        path = part_of(target)
        with PartFile.opened(path, is_checked=sha256 is not None) as part:
            transfer = _Transfer(part, size_bytes, sha256, progress, pauses_s)
            problems: list[str] = []
            is_offline = True
            for source in sources:
                try:
                    transfer.run(source)
                except _UnusableSourceError as problem:
                    problems.append(f"{source}: {problem}")
                    is_offline &= isinstance(problem.__cause__, _NoConnectionError)
                else:
                    part.become(target)
                    return
            raise SourcesError("; ".join(problems), is_offline=is_offline)
    except LockedError as error:
        raise DownloadError(str(error)) from None
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """The checksum of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _Transfer:
    """Gets `part` from one source after another, until its bytes are right."""

    part: PartFile
    size_bytes: int | None
    sha256: str | None
    progress: Progress
    pauses_s: Sequence[float]

    def run(self, source: str) -> None:
        """Complete `part`. Raises `_UnusableSourceError`."""
        while True:
            self._fetch_patiently(source)
            if self.sha256 is None or self.part.digest() == self.sha256:
                return
            resumed = self.part.resumed
            self.part.restart()
            # Pieces of several answers may not fit together: the source gets one clean try.
            if not resumed:
                raise _UnusableSourceError("its bytes do not have the published checksum")

    def _fetch_patiently(self, source: str) -> None:
        pauses = iter(self.pauses_s)
        most = 0
        while self.size_bytes is None or self.part.size != self.size_bytes:
            try:
                self._fetch_once(source)
            except _CutError as problem:
                # Bytes that are fetched again after a restart are not new.
                if self.part.size > most:
                    most = self.part.size
                    pauses = iter(self.pauses_s)
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise _UnusableSourceError(str(problem)) from problem
                time.sleep(pause_s)
            else:
                return

    def _fetch_once(self, source: str) -> None:
        part, size_bytes = self.part, self.size_bytes
        if size_bytes is not None and part.size > size_bytes:
            part.restart()
        origin = part.source_and_etag
        if self.sha256 is None and origin is not None and origin[0] != source:
            part.restart()
        with _answer(source, part) as response:
            total = _length(response, part)
            if size_bytes is not None and total not in (None, size_bytes):
                raise _UnusableSourceError(f"it has {total} bytes, {size_bytes} are published")
            total = total or size_bytes
            if total is not None:
                _check_room(part, total)
            for chunk in _chunks(response):
                part.append(chunk)
                self.progress(part.size, total)
                if size_bytes is not None and part.size > size_bytes:
                    part.restart()
                    raise _UnusableSourceError(f"it sends more than {size_bytes} bytes")
        if total is not None and part.size < total:
            raise _CutError(f"the connection was cut at {part.size} of {total} bytes")


def _answer(source: str, part: PartFile) -> http.client.HTTPResponse:
    """Ask for the missing bytes. On return, `part` ends where the answer's body begins."""
    if not source.startswith(("https://", "http://")):
        raise _UnusableSourceError("only http and https are fetched")
    request = urllib.request.Request(source, headers={"User-Agent": "upscaled"})  # noqa: S310
    if part.size:
        request.add_header("Range", f"bytes={part.size}-")
        if part.source_and_etag is not None and part.source_and_etag[0] == source:
            request.add_header("If-Range", part.source_and_etag[1])
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(  # noqa: S310
            request, timeout=SILENCE_S
        )
    except urllib.error.HTTPError as error:
        _refuse(error, part)
    except (OSError, http.client.HTTPException) as error:
        raise _NoConnectionError(f"no connection: {getattr(error, 'reason', error)}") from error
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        part.resumed = True
    else:
        part.restart()
        etag = response.headers.get("ETag", "")
        # A weak ETag (W/"...") does not identify bytes; RFC 9110 forbids it in If-Range.
        part.set_origin((source, etag) if etag.startswith('"') else None)
    return response


def _refuse(error: urllib.error.HTTPError, part: PartFile) -> NoReturn:
    with error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.restart()
            raise _CutError("its file is shorter than what was fetched before")
        answer = f"it answers {error.code} {error.reason}".splitlines()[0]
        if error.code in _PASSING_STATUSES:
            raise _CutError(answer)
        raise _UnusableSourceError(answer)


def _length(response: http.client.HTTPResponse, part: PartFile) -> int | None:
    """The bytes of the whole file; None if the server does not say."""
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:
        return response.length
    where = re.fullmatch(
        r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)",
        response.headers.get("Content-Range", "").strip(),
    )
    if where is None or int(where[1]) != part.size:
        part.restart()
        raise _CutError("it answered with another range than it was asked for")
    return None if where[2] == "*" else int(where[2])


def _check_room(part: PartFile, total: int) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if free < total - part.size:
        raise DownloadError(
            f"{part.path.parent} has {free / 1e9:.1f} GB free, {(total - part.size) / 1e9:.1f} GB "
            "are needed: make room, or set MODEL_CACHE_DIR to another disk"
        )


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection broke: {error}") from error
        if not chunk:
            return
        yield chunk
