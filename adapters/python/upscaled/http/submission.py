"""The request of a job: multipart/form-data with its fields and its picture, or JSON if the picture
is a URL."""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from upscaled.errors import UpscaledError, local_error
from upscaled.http.connection import Exchange
from upscaled.messages import Message

# The config's fields for the input and the output.
_PLACES = frozenset({"image_path", "image_base64", "image_url", "output_path", "output_base64"})
_OWN = frozenset({"type", "job_id", "method", "config"})
# The server's limit of a job's label.
_LONGEST_LABEL = 100
_PIECE_BYTES = 256 * 1024


class Submission:
    """The request of one job, which may be sent more than once. is_named: the caller chose the
    job's id, which becomes its label on the server. output_format: if the config has none.

    Raises `UpscaledError` if the picture cannot be read.
    """

    def __init__(self, job: Message, *, is_named: bool, output_format: str | None) -> None:
        config: Message = job.get("config") or {}
        fields: Message = {} if output_format is None else {"output_format": output_format}
        fields |= {name: value for name, value in job.items() if name not in _OWN}
        fields |= {name: value for name, value in config.items() if name not in _PLACES}
        if is_named and len(job["job_id"]) <= _LONGEST_LABEL:
            fields["label"] = job["job_id"]
        if config.get("image_url") is not None:
            fields["image_url"] = config["image_url"]
        fields = {name: value for name, value in fields.items() if value is not None}
        self.path = f"/api/upscale/{job['method']}"
        self.is_sent = False  # True: the server may have all of it, and so the job
        self._job_id: str = job["job_id"]
        # With the same key the server makes one job of all tries.
        self._headers = {"Idempotency-Key": str(uuid.uuid4()), "Accept": "application/json"}
        picture = _picture(config, self._job_id)
        if picture is None:
            self._write_json(fields)
        else:
            self._write_form(fields, *picture)

    def exchange(self, on_refused: Callable[[], None]) -> Exchange:
        """The request. on_refused: called at each refusal; the server then has no job."""

        def refused() -> None:
            self.is_sent = False
            on_refused()

        return Exchange("POST", self.path, self._headers, self._pieces, self._job_id, refused)

    def _write_json(self, fields: Message) -> None:
        self._head, self._tail = b"", json.dumps(fields).encode()
        self._read: Callable[[], Iterator[bytes]] = lambda: iter(())
        self._headers |= {
            "Content-Type": "application/json",
            "Content-Length": str(len(self._tail)),
        }

    def _write_form(
        self, fields: Message, name: str, size: int, read: Callable[[], Iterator[bytes]]
    ) -> None:
        boundary = f"upscaled-{uuid.uuid4()}"
        parts = [_part(boundary, _quoted(one)) + _text(value) for one, value in fields.items()]
        picture = f'"image"; filename={_quoted(name)}\r\nContent-Type: application/octet-stream'
        parts.append(_part(boundary, picture))
        self._head, self._tail = "\r\n".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()
        self._read = read
        self._headers |= {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(self._head) + size + len(self._tail)),
        }

    def _pieces(self) -> Iterator[bytes]:
        if self._head:
            yield self._head
        yield from self._read()
        self.is_sent = True
        yield self._tail


def _picture(config: Message, job_id: str) -> tuple[str, int, Callable[[], Iterator[bytes]]] | None:
    """The picture's name, its size and its reader; None if the server fetches the picture."""
    path, text = config.get("image_path"), config.get("image_base64")
    if isinstance(path, str):
        size = _size(path, job_id)
        return os.path.basename(path), size, lambda: _pieces_of(path, size, job_id)  # noqa: PTH119
    if isinstance(text, str):
        # A data: URL has its bytes behind the comma.
        encoded = text.partition(",")[2] if text.startswith("data:") else text
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            sentence = f"image_base64 is no base64: {error}"
            raise local_error("input_unreadable", sentence, job_id) from error
        return "image", len(data), lambda: iter((data,))
    return None


def _size(path: str, job_id: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - a name that is no UTF-8 too
    except FileNotFoundError as error:
        raise local_error("input_not_found", f"there is no file {path}", job_id) from error
    except OSError as error:
        raise _unreadable(f"the input cannot be read: {error}", job_id) from error
    if not stat.S_ISREG(status.st_mode):
        raise local_error("input_not_found", f"{path} is no ordinary file", job_id)
    if not os.access(path, os.R_OK):
        raise _unreadable(f"the input cannot be read: {path}", job_id)
    return status.st_size


def _unreadable(sentence: str, job_id: str) -> UpscaledError:
    return local_error("input_unreadable", sentence, job_id)


def _pieces_of(path: str, size: int, job_id: str) -> Iterator[bytes]:
    """So many bytes, as the request's head has said."""
    left = size
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            while left >= 0 and (piece := file.read(min(_PIECE_BYTES, left + 1))):
                left -= len(piece)
                yield piece[:left] if left < 0 else piece
    except OSError as error:
        raise _unreadable(f"the input cannot be read: {error}", job_id) from error
    if left != 0:
        raise _unreadable(f"{path} changed while it was sent: send it once it is whole", job_id)


def _part(boundary: str, name: str) -> str:
    return f"--{boundary}\r\nContent-Disposition: form-data; name={name}\r\n\r\n"


def _quoted(name: str) -> str:
    """As browsers write a name (WHATWG HTML, section 4.10.21.8)."""
    text = name.encode("utf-8", "replace").decode()
    return '"' + text.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22") + '"'


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
