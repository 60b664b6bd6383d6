"""The kinds of output that a job can ask for, each under the config field that it serves."""

from __future__ import annotations

import base64
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from upscaled_imaging.context import PictureContext
from upscaled_imaging.freename import fitting
from upscaled_imaging.objectstore import check_object_url, upload
from upscaled_imaging.paths import check_allowed, check_opened, given_path
from upscaled_imaging.pendingfile import PendingFile, temporary_file, unwritable
from upscaled_imaging.presigned import check_presigned_url, put
from upscaled_imaging.read import Source
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.storage import SCHEMES
from upscaled_imaging.urlaccess import place_of
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES

# Linux's limit for a file name, if the file system does not state its own.
_NAME_BYTES = 255
# The largest file that fits into a line of the protocol beside the result's other fields.
_BASE64_BYTES = (DEFAULT_LINE_LIMIT_BYTES - 64 * 1024) // 4 * 3


@dataclass(frozen=True)
class Written:
    """A finished output, by the result's fields: those of one kind are set."""

    output_path: str | None = None
    output_base64: str | None = None
    # Without its query, and with the size of the file.
    output_url: str | None = None
    output_bytes: int | None = None


@dataclass(frozen=True)
class PendingOutput:
    """A file to write; `publish` hands it over whole, and raises `JobError`."""

    file: BinaryIO
    publish: Callable[[], Written]


class Destination(ABC):
    """The place for one job's output, checked before the work begins."""

    @abstractmethod
    def open(self) -> AbstractContextManager[PendingOutput]:
        """Open the output. Leaving the context without `publish` leaves nothing behind.

        Entering it raises `JobError`: output_unwritable, path_not_allowed.
        """


@dataclass(frozen=True)
class Request:
    """What a destination is planned from. `ending` completes the default name; `media_type` is
    the file's.
    """

    config: ImageConfig
    settings: PictureSettings
    source: Source
    ending: str
    media_type: str
    context: PictureContext


def _no_suffix(_config: ImageConfig) -> str:
    return ""


@dataclass(frozen=True)
class DestinationKind:
    """A kind of destination.

    plan: checks what the request asks for; raises `JobError` (invalid_job, output_unwritable,
    path_not_allowed). suffix: the suffix by which the config names a format, empty if by none.
    """

    plan: Callable[[Request], Destination]
    suffix: Callable[[ImageConfig], str] = _no_suffix


@dataclass(frozen=True)
class FileDestination(Destination):
    """A file.

    roots: the folders that it must lie in, if there are any. numbered: a file that exists at the
    path is kept, and the output gets a number. accepted_as: the job's mark, by which a later run of
    the same job finds a numbered file of its own.
    """

    path: Path
    roots: tuple[Path, ...] = ()
    numbered: bool = False
    accepted_as: str | None = None

    @contextmanager
    def open(self) -> Iterator[PendingOutput]:
        """A file that has no name until it is published."""
        with closing(PendingFile(self.path)) as pending:
            check_opened(pending.folder, self.path, self.roots)
            yield PendingOutput(pending.file, partial(self._publish, pending))

    def _publish(self, pending: PendingFile) -> Written:
        path = pending.publish_numbered(self.accepted_as) if self.numbered else pending.publish()
        return Written(output_path=str(path))


@dataclass(frozen=True)
class Base64Destination(Destination):
    """The result itself, which holds the file's bytes as base64."""

    @contextmanager
    def open(self) -> Iterator[PendingOutput]:
        """A temporary file."""
        with temporary_file() as file:
            yield PendingOutput(file, partial(_encoded, file))


@dataclass(frozen=True)
class UrlDestination(Destination):
    """An object storage, or a presigned URL. upload: sends a file, whole or not at all."""

    url: str
    upload: Callable[[BinaryIO], None]

    @contextmanager
    def open(self) -> Iterator[PendingOutput]:
        """A temporary file."""
        with temporary_file() as file:
            yield PendingOutput(file, partial(self._publish, file))

    def _publish(self, file: BinaryIO) -> Written:
        size = file.seek(0, io.SEEK_END)
        self.upload(file)
        return Written(output_url=place_of(self.url), output_bytes=size)


def plan_file(request: Request) -> FileDestination:
    """`output_path`, or {stem}{ending} in OUTPUT_DIR, or else in the input's folder.

    OUTPUT_DIR is made if it is missing. Other folders are not: a mistyped one is an error.
    """
    named, access, source = request.config.output_path, request.settings.access, request.source
    if named is not None:
        path = _named_path(named)
    else:
        folder = _default_folder(access.output_dir, source)
        path = folder / fitting(source.stem, request.ending, _name_limit_bytes(folder))
    # The operator chose OUTPUT_DIR, so it may lie outside the roots.
    is_operators = named is None and access.output_dir is not None
    roots = () if is_operators else access.roots
    check_allowed(path.parent, roots)
    _check_path(path, source, is_given=named is not None)
    return FileDestination(path, roots, named is None, request.context.accepted_as)


def plan_base64(_request: Request) -> Base64Destination:
    """Always possible: the file's size shows only at the end."""
    return Base64Destination()


def plan_url(request: Request) -> UrlDestination:
    """`output_url`, below one of the operator's prefixes."""
    url = request.config.output_url or ""
    kind = _UPLOADS.get(url.partition(":")[0].lower())
    if kind is None:
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            "output_url must begin with s3://, gs://, az:// or https://",
        )
    kind.check("output_url", url, request.settings)
    if place_of(url) == place_of(request.config.image_url or ""):
        raise JobError(
            ErrorCode.INVALID_JOB, "output_url is the input itself: give another output_url"
        )

    def upload(file: BinaryIO) -> None:
        kind.upload(url, file, request.media_type, request.settings, request.context)

    return UrlDestination(url, upload)


def _url_suffix(config: ImageConfig) -> str:
    return PurePosixPath(place_of(config.output_url or "")).suffix.lower()


class _Upload(NamedTuple):
    """How URLs of one scheme are checked, and written to."""

    check: Callable[[str, str, PictureSettings], None]
    upload: Callable[[str, BinaryIO, str, PictureSettings, PictureContext], None]


_UPLOADS: Mapping[str, _Upload] = {
    **dict.fromkeys(SCHEMES, _Upload(check_object_url, upload)),
    # Plain http only if the operator names such a prefix.
    **dict.fromkeys(("https", "http"), _Upload(check_presigned_url, put)),
}


def _path_suffix(config: ImageConfig) -> str:
    return Path(config.output_path or "").suffix.lower()


_FILE = DestinationKind(plan_file, _path_suffix)
DESTINATIONS: Mapping[str, DestinationKind] = {
    "output_path": _FILE,
    "output_base64": DestinationKind(plan_base64),
    "output_url": DestinationKind(plan_url, _url_suffix),
}


def destination_kind(config: ImageConfig) -> DestinationKind:
    """The kind that the config asks for; a file if it asks for none."""
    named = (kind for field, kind in DESTINATIONS.items() if getattr(config, field))
    return next(named, _FILE)


def _encoded(file: BinaryIO) -> Written:
    size = file.seek(0, io.SEEK_END)
    if size > _BASE64_BYTES:
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"the output has {size / 2**20:.0f} MiB, and base64 is for "
            f"{_BASE64_BYTES / 2**20:.0f} at most: give output_path",
        )
    file.seek(0)
    return Written(output_base64=base64.b64encode(file.read()).decode("ascii"))


def _named_path(text: str) -> Path:
    if text.endswith("/"):
        raise JobError(
            ErrorCode.OUTPUT_UNWRITABLE, f"{text} is a folder: give the output a name in it"
        )
    return given_path(text)


def _default_folder(output_dir: Path | None, source: Source) -> Path:
    if output_dir is not None:
        folder = output_dir.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(folder, error) from None
        return folder
    if source.folder is not None:
        return source.folder
    raise JobError(
        ErrorCode.INVALID_JOB,
        "give output_path, output_base64 or output_url: an input that is no file has no folder for "
        "the output, and OUTPUT_DIR is not set",
    )


def _name_limit_bytes(folder: Path) -> int:
    try:
        return os.pathconf(folder, "PC_NAME_MAX")
    except OSError:  # a missing folder, which `_check_path` reports
        return _NAME_BYTES


def _check_path(path: Path, source: Source, *, is_given: bool) -> None:
    try:
        if not path.parent.is_dir():
            raise JobError(
                ErrorCode.OUTPUT_UNWRITABLE, f"there is no folder {path.parent}: make it first"
            )
        if not is_given or not path.exists():
            return
        if not path.is_file():
            raise JobError(ErrorCode.OUTPUT_UNWRITABLE, f"{path} exists and is no ordinary file")
        if source.path is not None and path.samefile(source.path):
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"the output {path} is the input itself: give another output_path",
            )
    except OSError as error:
        raise unwritable(path, error) from None
