"""Several results as one zip. It is streamed, and not compressed, because pictures already are."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from zipstream import ZIP_STORED, ZipStream

from upscaled_http.admission import RETRY_AFTER_S
from upscaled_http.problems import HttpCode, ProblemError
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


# Of all zips that are being sent. Each file of a zip is open until its end, so slow clients could
# otherwise take every file that the server may open.
MAX_OPEN_FILES = 1000


class OpenArchives:
    """Counts the files of all zips that are being sent."""

    def __init__(self) -> None:
        self._files = 0

    @contextmanager
    def counted(self, files: int) -> Iterator[None]:
        """Count so many files while the context lasts. Raises `ProblemError` if they are too
        many."""
        if self._files + files > MAX_OPEN_FILES:
            raise ProblemError(
                HttpCode.TOO_MANY_CONNECTIONS,
                "The server sends too many zips already; send this again later.",
                headers={"Retry-After": str(RETRY_AFTER_S)},
            )
        self._files += files
        try:
            yield
        finally:
            self._files -= files


def archive_of(service: Service, records: Sequence[Record]) -> FilesResponse:
    """The zip of these jobs' results. Raises `ProblemError` if one of them has none, or if too many
    zips are being sent."""
    archive = ZipStream(compress_type=ZIP_STORED, sized=True)
    taken: set[str] = set()
    with ExitStack() as opened:
        opened.enter_context(service.archives.counted(len(records)))
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
