"""A result as an answer: whole, in part (RFC 9110, one range), or not again (304)."""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, suppress
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from upscaled_http.presence import wait_left
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_http.records import Record

if TYPE_CHECKING:
    from upscaled_http.service import Service

_LOG = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024
# 18 digits are enough for any file. Python refuses to read a number of thousands of digits.
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# A browser must not run a client's file as a page.
SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cache-Control": "private, no-cache",
}


def download_name(record: Record) -> str:
    """The file name of a download: the upload's name, with the result's suffix."""
    stem = (record.name or record.job_id).rpartition(".")[0] or record.name or record.job_id
    suffix = (record.file_name or "").rpartition(".")[2]
    return f"{stem}_{record.method}.{suffix}"


def disposition(name: str, kind: str = "inline") -> str:
    """A `Content-Disposition` that old clients can read too (RFC 6266)."""
    plain = re.sub(r"[^A-Za-z0-9._ ()-]", "_", name)
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def check_result(record: Record) -> str:
    """The name of a job's file. Raises `ProblemError`: not_finished, result_gone, not_found."""
    if record.status == "completed":
        if record.file_name is not None:
            return record.file_name
        raise ProblemError(HttpCode.RESULT_GONE, "The result was removed.", job_id=record.job_id)
    if not record.has_ended:
        raise ProblemError(
            HttpCode.NOT_FINISHED,
            f"The job is {record.status}; ask again later.",
            job_id=record.job_id,
            headers={"Retry-After": "1"},
        )
    raise ProblemError(
        HttpCode.NOT_FOUND,
        f"The job has no result: its status is {record.status}.",
        job_id=record.job_id,
    )


class ResultResponse(Response):
    """Sends a file, or the requested part, and closes it. on_sent: called once the whole file is
    sent. Raises `ProblemError` (416), and closes the file then too."""

    def __init__(
        self,
        fd: int,
        media_type: str,
        request: Request,
        headers: Mapping[str, str],
        on_sent: Callable[[], None] | None = None,
    ) -> None:
        self._fd = fd
        self._on_sent = on_sent
        try:
            self._prepare(media_type, request, headers)
        except BaseException:
            os.close(fd)
            raise

    def _prepare(self, media_type: str, request: Request, headers: Mapping[str, str]) -> None:
        fd = self._fd
        status = os.fstat(fd)
        self.etag = f'"{status.st_mtime_ns:x}-{status.st_size:x}"'
        self._begin, self._end = 0, status.st_size
        code = HTTPStatus.OK
        modified = formatdate(status.st_mtime, usegmt=True)
        all_headers = {
            **SAFE_HEADERS,
            "Accept-Ranges": "bytes",
            "ETag": self.etag,
            "Last-Modified": modified,
            **headers,
        }
        if self._is_known(request):
            code, self._end = HTTPStatus.NOT_MODIFIED, 0
        elif (part := self._range(request, status.st_size, modified)) is not None:
            self._begin, self._end = part
            code = HTTPStatus.PARTIAL_CONTENT
            all_headers["Content-Range"] = f"bytes {part[0]}-{part[1] - 1}/{status.st_size}"
        if code != HTTPStatus.OK:
            self._on_sent = None
        super().__init__(None, code, all_headers, media_type)
        if code != HTTPStatus.NOT_MODIFIED:
            self.headers["Content-Length"] = str(self._end - self._begin)

    @classmethod
    def of(
        cls, service: Service, record: Record, request: Request, headers: Mapping[str, str]
    ) -> ResultResponse:
        """The result of a completed job. Raises `ProblemError`."""
        headers = {**headers, "Content-Disposition": disposition(download_name(record))}
        return cls(
            open_result(service, record),
            record.media_type,
            request,
            headers,
            lambda: service.note_download(record),
        )

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. If the client leaves before the end, `on_sent` is not called."""
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            await self._send_body(receive, send)
        finally:
            os.close(self._fd)

    async def _send_body(self, receive: Receive, send: Send) -> None:
        begin, end = self._begin, self._end
        if end - begin <= CHUNK_BYTES:
            # A file of this size is mostly in memory: a thread would take longer than the read.
            body = os.pread(self._fd, end - begin, begin) if end > begin else b""
            self._note_sent()
            await send({"type": "http.response.body", "body": body})
        else:
            left = asyncio.ensure_future(wait_left(receive))
            try:
                while begin < end:
                    size = min(CHUNK_BYTES, end - begin)
                    body = await asyncio.to_thread(os.pread, self._fd, size, begin)
                    if not body or left.done():
                        return
                    begin += len(body)
                    if begin == end:
                        self._note_sent()
                    await send(
                        {"type": "http.response.body", "body": body, "more_body": begin < end}
                    )
            finally:
                left.cancel()
                with suppress(asyncio.CancelledError):
                    await left

    def _note_sent(self) -> None:
        """Called before the last part is sent: the client's next request finds the change."""
        if self._on_sent is not None:
            self._on_sent()

    def _is_known(self, request: Request) -> bool:
        known = request.headers.get("if-none-match")
        if known is None:
            return False
        return known.strip() == "*" or self.etag in _etags(known)

    def _range(self, request: Request, size: int, modified: str) -> tuple[int, int] | None:
        """The requested part; None for the whole. Raises `ProblemError` (416)."""
        found = _RANGE.fullmatch(request.headers.get("range", "").replace(" ", ""))
        if found is None or (not found[1] and not found[2]):
            return None  # several ranges, or another unit: the whole is a correct answer
        condition = request.headers.get("if-range", self.etag).strip()
        if condition not in (self.etag, modified):
            return None
        if found[1]:
            begin = int(found[1])
            end = min(int(found[2]) + 1, size) if found[2] else size
            if found[2] and int(found[2]) < begin:
                return None
        else:
            begin, end = max(0, size - int(found[2])), size
        if begin >= size or begin >= end:
            raise ProblemError(
                HttpCode.RANGE_NOT_SATISFIABLE,
                f"The range begins after the end of the result, which has {size} bytes.",
                headers={"Content-Range": f"bytes */{size}"},
            )
        return begin, end


class FilesResponse(StreamingResponse):
    """A stream that is made of files. At its end they are closed, also if nothing of it was sent:
    after a HEAD no part of a generator runs. on_sent: called once the whole stream is sent.

    Starlette runs a background task also if the client left, so `on_sent` is none.
    """

    def __init__(
        self,
        parts: Generator[bytes],
        media_type: str,
        headers: Mapping[str, str],
        opened: ExitStack,
        on_sent: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._opened.callback(parts.close)
        self._on_sent = on_sent
        super().__init__(parts, headers=headers, media_type=media_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. If the client leaves before the end, `on_sent` is not called."""
        with self._opened:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Send the headers and all parts."""
        await super().stream_response(send)
        self._on_sent()


def open_result(service: Service, record: Record) -> int:
    """A descriptor of a completed job's file. Raises `ProblemError`."""
    name = check_result(record)
    try:
        return os.open(service.storage.result(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise ProblemError(
            HttpCode.RESULT_GONE, "The result was removed.", job_id=record.job_id
        ) from None
    except OSError as error:
        _LOG.warning("a result cannot be read: %s", error)
        raise ProblemError(
            HttpCode.INSUFFICIENT_STORAGE,
            "The result cannot be read now; ask again later.",
            job_id=record.job_id,
        ) from None


def encoded(service: Service, record: Record) -> FilesResponse:
    """The result of a completed job as JSON with its base64, in chunks. Raises `ProblemError`."""
    fd, media_type = open_result(service, record), record.media_type
    size = os.fstat(fd).st_size
    head, tail = b'{"image_base64":"', f'","media_type":"{media_type}"}}'.encode()
    # Three bytes become four letters. Only the last chunk may have padding.
    step = CHUNK_BYTES // 3 * 3
    opened = ExitStack()
    opened.callback(os.close, fd)

    def parts() -> Generator[bytes]:
        yield head
        for begin in range(0, size, step):
            yield base64.b64encode(os.pread(fd, min(step, size - begin), begin))
        yield tail

    length = len(head) + (size + 2) // 3 * 4 + len(tail)
    headers = {"Content-Length": str(length), "Cache-Control": SAFE_HEADERS["Cache-Control"]}
    return FilesResponse(
        parts(), "application/json", headers, opened, lambda: service.note_download(record)
    )


def _etags(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
