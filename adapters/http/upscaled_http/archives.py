"""Several results as one zip. It is streamed, and not compressed, because pictures already are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from zipstream import ZIP_STORED, ZipStream

from upscaled_http.records import Record
from upscaled_http.results import SAFE_HEADERS, check_result, disposition, download_name

if TYPE_CHECKING:
    from upscaled_http.service import Service


def archive_of(service: Service, records: Sequence[Record]) -> StreamingResponse:
    """The zip of these jobs' results. Raises `ProblemError` if one of them has none."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    taken: set[str] = set()
    for record in records:
        path = service.storage.result(check_result(record))
        archive.add_path(path, _free_name(download_name(record), taken))
    headers = {
        **SAFE_HEADERS,
        "Content-Length": str(len(archive)),
        "Content-Disposition": disposition("upscaled.zip", "attachment"),
    }
    return StreamingResponse(iter(archive), headers=headers, media_type="application/zip")


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with a number if another file of the zip has it."""
    stem, dot, suffix = name.rpartition(".")
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{stem}-{number}{dot}{suffix}"
    taken.add(free.lower())
    return free
