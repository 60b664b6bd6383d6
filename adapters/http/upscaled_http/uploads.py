"""A request's body: a form, whose files are written to disk as they come, or one JSON object, which
is on disk until it is whole and there is memory for it. A client that stalls takes no memory.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl

from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from upscaled_http.bodymemory import SMALL_BYTES, BodyMemory
from upscaled_http.fields import check_field_names, too_many_fields
from upscaled_http.incoming import IncomingFile, IncomingText, Upload
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.errors import ErrorCode

# A prompt has at most 10,000 characters; an address 8 KiB.
_MAX_FIELD_BYTES = 64 * 1024
_MAX_FIELDS = 64
# Of a JSON body: brackets and commas. A job has some tens, and a long prompt some hundreds.
_MAX_VALUES = 10_000
_DATA_URL = re.compile(r"data:image/[\w.+-]{1,64}(;[\w=-]{1,64})?;base64,")


@dataclass
class Body:
    """A request's fields and files. The end of its context removes the files that are left."""

    fields: dict[str, Any] = field(default_factory=dict)
    is_text: bool = True
    uploads: list[Upload] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for upload in self.uploads:
            with contextlib.suppress(OSError):
                upload.path.unlink(missing_ok=True)


class BodyReader:
    """Reads bodies. incoming: the folder for files."""

    def __init__(self, incoming: Path, memory: BodyMemory) -> None:
        self._incoming = incoming
        self._memory = memory

    async def read(self, request: Request, max_files: int) -> Body:
        """The whole body. If it raises `ProblemError`, no file is left."""
        content_type = request.headers.get("content-type", "")
        kind, options = parse_options_header(content_type)
        needs_hash = "idempotency-key" in request.headers
        if kind == b"multipart/form-data":
            boundary = options.get(b"boundary", b"")
            if not 0 < len(boundary) <= 70:
                raise ProblemError(
                    HttpCode.INVALID_REQUEST, "multipart/form-data needs a boundary in its header."
                )
            form = _Form(boundary, self._incoming, max_files, needs_hash=needs_hash)
            try:
                await self._read_all(request, form)
                return form.finish()
            except BaseException:
                form.discard()
                raise
        if kind in (b"application/x-www-form-urlencoded", b"application/json"):
            with IncomingText(self._incoming) as text:
                await self._read_all(request, text)
                async with self._memory.reserved(text.size_bytes):
                    if kind == b"application/json":
                        return await self._json_body(text, needs_hash)
                    return _urlencoded(text.take())
        raise ProblemError(
            HttpCode.UNSUPPORTED_MEDIA_TYPE,
            "Send multipart/form-data with a file `image`, or application/json.",
        )

    async def _read_all(self, request: Request, into: _Form | IncomingText) -> None:
        """Read the body to its end. `LimitedBody` limits its size and its time."""
        try:
            async for chunk in request.stream():
                into.feed(chunk)
        except ClientDisconnect:
            raise ProblemError(HttpCode.INVALID_REQUEST, "The upload was not completed.") from None

    async def _json_body(self, text: IncomingText, needs_hash: bool) -> Body:
        # Another thread decodes a large body, because base64 takes time.
        if text.size_bytes > SMALL_BYTES:
            return await asyncio.to_thread(self._parse_json, text, needs_hash)
        return self._parse_json(text, needs_hash)

    def _parse_json(self, body: IncomingText, needs_hash: bool) -> Body:
        text = body.take()
        # To parse millions of values takes gigabytes, and no other thread runs meanwhile.
        if sum(map(text.count, (b"[", b"{", b","))) > _MAX_VALUES:
            raise ProblemError(
                ErrorCode.INVALID_JSON, f"The body has more than {_MAX_VALUES} values."
            )
        try:
            fields = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise ProblemError(ErrorCode.INVALID_JSON, "The body is no JSON.") from None
        if not isinstance(fields, dict):
            raise ProblemError(ErrorCode.INVALID_JSON, "The body is no JSON object.")
        check_field_names(fields, _MAX_FIELDS)
        uploads = []
        picture = fields.pop("image_base64", None)
        if picture is not None:
            file = IncomingFile(self._incoming, fields.pop("name", None), needs_hash=needs_hash)
            try:
                file.write(_decoded(picture))
            except BaseException:
                file.discard()
                raise
            uploads.append(file.close())
        return Body(fields, is_text=False, uploads=uploads)


class _Form:
    """A form that is being received; the parser calls its methods."""

    def __init__(self, boundary: bytes, folder: Path, max_files: int, *, needs_hash: bool) -> None:
        self._folder = folder
        self._needs_hash = needs_hash
        self._max_files = max_files
        self._body = Body()
        self._headers: dict[bytes, bytes] = {}
        self._header_name = b""
        self._header_value = b""
        self._name = ""
        self._text: bytearray | None = None
        self._file: IncomingFile | None = None
        self._is_whole = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_header_name,
                "on_header_value": self._add_header_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._end_headers,
                "on_part_data": self._add_data,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """The next bytes of the body."""
        try:
            self._parser.write(chunk)
        except MultipartParseError:
            raise _malformed() from None

    def finish(self) -> Body:
        """The whole form."""
        if not self._is_whole:
            raise _malformed()
        return self._body

    def discard(self) -> None:
        """Remove the files."""
        if self._file is not None:
            self._file.discard()
        self._body.__exit__()

    def _begin_part(self) -> None:
        self._headers = {}

    def _add_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _add_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def _end_headers(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        kind, options = parse_options_header(disposition)
        name, file_name = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or name is None:
            raise ProblemError(HttpCode.INVALID_REQUEST, "A part of the form has no name.")
        self._name = _text(name, "a field's name")
        if file_name is None and "filename*=" in disposition:
            file_name = b""  # of old clients: RFC 7578 forbids it, and the parser leaves it out
        if file_name is None:
            if self._name in ("image", "file"):
                raise ProblemError.field(
                    self._name,
                    f"`{self._name}` came as a text: send it as a file with a name, as "
                    f"`curl -F {self._name}=@photo.png` does.",
                )
            check_field_names([*self._body.fields, self._name], _MAX_FIELDS)
            self._text = bytearray()
            return
        if self._name not in ("image", "file"):
            shown = repr(self._name[:64])
            raise ProblemError.field(
                self._name[:100], f"A file is sent as `image` (or `file`), not as {shown}."
            )
        if len(self._body.uploads) >= self._max_files:
            text = (
                "Send one picture, or several to /api/batches."
                if self._max_files == 1
                else f"Send at most {self._max_files} pictures at once."
            )
            raise ProblemError.field(self._name, text)
        self._file = IncomingFile(
            self._folder, file_name.decode(errors="replace"), needs_hash=self._needs_hash
        )

    def _add_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MAX_FIELD_BYTES:
                raise ProblemError.field(
                    self._name[:100], f"A field has at most {_MAX_FIELD_BYTES} bytes."
                )

    def _end_part(self) -> None:
        if self._file is not None:
            self._body.uploads.append(self._file.close())
            self._file = None
        elif self._text is not None:
            self._body.fields[self._name] = _text(bytes(self._text), self._name[:100])
            self._text = None

    def _end(self) -> None:
        self._is_whole = True


def _urlencoded(text: bytes | bytearray) -> Body:
    """A form without files, as `curl -d` sends it."""
    limit_bytes = _MAX_FIELDS * _MAX_FIELD_BYTES
    if len(text) > limit_bytes:
        raise ProblemError.field("", f"A form without files has at most {limit_bytes} bytes.")
    if text.count(b"&") >= _MAX_FIELDS:
        raise too_many_fields(_MAX_FIELDS)
    try:
        pairs = parse_qsl(text.decode(), keep_blank_values=True, strict_parsing=bool(text))
    except ValueError:
        raise ProblemError(
            HttpCode.INVALID_REQUEST, "The body is no application/x-www-form-urlencoded."
        ) from None
    check_field_names((name for name, _ in pairs), _MAX_FIELDS)
    return Body(dict(pairs))


def _malformed() -> ProblemError:
    return ProblemError(
        HttpCode.INVALID_REQUEST, "The form is cut off, or is no multipart/form-data."
    )


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProblemError.field(what, f"{what} is not UTF-8.") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    check_field_names((name for name, _ in pairs), _MAX_FIELDS)
    return dict(pairs)


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _decoded(picture: Any) -> bytes:
    text = picture if isinstance(picture, str) else ""
    if text.startswith("data:"):
        found = _DATA_URL.match(text)
        text = text[found.end() :] if found else ""
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if not data:
        raise ProblemError.field(
            "image_base64", "image_base64 is a picture in base64, or a data: URL of one."
        )
    return data
