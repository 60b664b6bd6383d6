"""One file over HTTP: resumed where it was cut, checked, and in place whole or not at all.

While it is fetched it is called NAME.part. The bytes there are used again after a cut or another
run, asked for with `Range`; `If-Range` makes the server start over where its file has changed.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

# A mirror that says nothing for so long is given up.
SILENCE_S = 30.0

# Waits before asking a source again; each new byte starts the row anew.
RETRY_PAUSES_S = (1.0, 2.0, 4.0)

_CHUNK_BYTES = 256 * 1024
_PASSING_STATUSES = {408, 425, 429, 500, 502, 503, 504}

Progress = Callable[[int, int | None], None]


class DownloadError(Exception):
    """Raised when a file could not be fetched. The text says why, and what to do."""


class _CutError(Exception):
    """The transfer broke off; asking the same source again may help."""


class _UnusableSourceError(Exception):
    """This source will not do; the next one may."""


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

    `progress` hears the bytes there and the bytes in all (None where the server does not say).
    Without a checksum, bytes of an earlier run are fetched again: nothing proves whose they are.

    Raises `DownloadError`; what was fetched so far is kept for the next run, unless it is wrong.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _Part.opened(target.with_name(target.name + ".part"), sha256 is not None) as part:
            transfer = _Transfer(part, size_bytes, sha256, progress, pauses_s)
            problems = []
            for source in sources:
                try:
                    transfer.run(source)
                except _UnusableSourceError as problem:
                    problems.append(f"{source}: {problem}")
                else:
                    part.become(target)
                    return
            raise DownloadError("; ".join(problems))
    except OSError as error:
        raise DownloadError(f"cannot write {target}: {error.strerror or error}") from error


def sha256_of(path: Path) -> str:
    """The checksum of a file, in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Part:
    """NAME.part, locked: its bytes, their checksum so far, and what the server called them."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.size = 0
        self.resumed = False  # whether its bytes were put together from several answers
        self.source_and_etag: tuple[str, str] | None = None
        self._file = file
        self._sha256 = hashlib.sha256()

    @classmethod
    @contextmanager
    def opened(cls, path: Path, keep: bool) -> Iterator[_Part]:
        """Lock it against other runs. Raises `DownloadError` where another run has it."""
        with _locked(path) as file:
            part = cls(path, file)
            if keep:
                part._read_back()
            else:
                part.restart()
            try:
                yield part
            finally:
                if part.size == 0:
                    path.unlink(missing_ok=True)

    def _read_back(self) -> None:
        self._file.seek(0)
        while chunk := self._file.read(_CHUNK_BYTES):
            self._sha256.update(chunk)
            self.size += len(chunk)
        self.resumed = self.size > 0

    def append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._sha256.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self.size = 0
        self.resumed = False
        self.source_and_etag = None

    def digest(self) -> str:
        return self._sha256.hexdigest()

    def become(self, target: Path) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self.path.replace(target)


@contextmanager
def _locked(path: Path) -> Iterator[BinaryIO]:
    while True:
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"another run is fetching {path}: wait for it") from None
            # Between open and flock the other run may have finished and renamed this very file.
            if not _is_still(path, file):
                continue
            yield file
            return


def _is_still(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


@dataclass
class _Transfer:
    """Gets `part` from one source after another, until its bytes are the right ones."""

    part: _Part
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
            # Pieces from several answers may not belong together: the source gets a clean try.
            if not resumed:
                raise _UnusableSourceError("its bytes do not have the published checksum")

    def _fetch_patiently(self, source: str) -> None:
        pauses = iter(self.pauses_s)
        while self.size_bytes is None or self.part.size != self.size_bytes:
            before = self.part.size
            try:
                self._fetch_once(source)
            except _CutError as problem:
                if self.part.size > before:
                    pauses = iter(self.pauses_s)
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise _UnusableSourceError(str(problem)) from None
                time.sleep(pause_s)
            else:
                return

    def _fetch_once(self, source: str) -> None:
        part, size_bytes = self.part, self.size_bytes
        if size_bytes is not None and part.size > size_bytes:
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


def _answer(source: str, part: _Part) -> http.client.HTTPResponse:
    """Ask for what is missing. Afterwards `part` ends where the answer's body begins."""
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
        raise _CutError(f"no connection: {getattr(error, 'reason', error)}") from error
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        part.resumed = True
    else:
        part.restart()
        etag = response.headers.get("ETag", "")
        # A weak one (W/"...") says nothing about bytes; RFC 9110 forbids it in If-Range.
        part.source_and_etag = (source, etag) if etag.startswith('"') else None
    return response


def _refuse(error: urllib.error.HTTPError, part: _Part) -> NoReturn:
    with error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.restart()
            raise _CutError("its file is shorter than what was fetched before")
        if error.code in _PASSING_STATUSES:
            raise _CutError(f"it answers {error.code} {error.reason}")
        raise _UnusableSourceError(f"it answers {error.code} {error.reason}")


def _length(response: http.client.HTTPResponse, part: _Part) -> int | None:
    """Bytes of the whole file, where the server says so."""
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


def _check_room(part: _Part, total: int) -> None:
    free = shutil.disk_usage(part.path.parent).free
    if free < total - part.size:
        raise DownloadError(
            f"{part.path.parent} has {free / 1e9:.1f} GB free, {(total - part.size) / 1e9:.1f} GB "
            "are needed: make room, or set MODEL_CACHE_DIR to another disk"
        )


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(f"the connection broke: {error}") from error
        if not chunk:
            return
        yield chunk
