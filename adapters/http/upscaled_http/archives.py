"""Several results as one zip. It is streamed, and not compressed, because pictures already are."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from zipstream import ZIP_STORED, ZipStream

from upscaled_http.records import Record
from upscaled_http.results import (
    SAFE_HEADERS,
    FilesResponse,
    disposition,
    download_name,
    open_result,
)

if TYPE_CHECKING:
    from upscaled_http.service import Service


def archive_of(service: Service, records: Sequence[Record]) -> FilesResponse:
    """The zip of these jobs' results. Raises `ProblemError` if one of them has none."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    taken: set[str] = set()
    with ExitStack() as opened:
        for record in records:
            # A result that is removed while the zip is sent can still be read.
            file = opened.enter_context(os.fdopen(open_result(service, record), "rb"))
            name = _free_name(download_name(record), taken)
            archive.add_path(f"/dev/fd/{file.fileno()}", name)
        to_close = opened.pop_all()

    def parts() -> Generator[bytes]:
        yield from archive

    def note_downloads() -> None:
        for record in records:
            service.note_download(record)

    headers = {
        **SAFE_HEADERS,
        "Content-Length": str(len(archive)),
        "Content-Disposition": disposition("upscaled.zip", "attachment"),
    }
    return FilesResponse(parts(), "application/zip", headers, to_close, note_downloads)


def _free_name(name: str, taken: set[str]) -> str:
    """The name, with a number if another file of the zip has it."""
    stem, dot, suffix = name.rpartition(".")
    number, free = 1, name
    while free.lower() in taken:
        number += 1
        free = f"{stem}-{number}{dot}{suffix}"
    taken.add(free.lower())
    return free
