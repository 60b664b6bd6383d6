"""Pictures as objects of a storage: s3://bucket/key, gs://..., az://..."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, BinaryIO

from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import keep, too_large
from upscaled_imaging.leftbehind import LOOK_S, LeftBehind
from upscaled_imaging.settings import PictureSettings
from upscaled_imaging.storage import (
    ObjectStorageError,
    ObjectStorageRefusedError,
    open_store,
    plain_errors,
)
from upscaled_imaging.urlaccess import allowed_url
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

# The time allowed for one picture, retries included: half a gigabyte at 7 MiB/s, and an outage.
_BUDGET_S = 180.0
_CHUNK_BYTES = 256 * 1024
# Where a machine of a cloud asks for credentials, if it was given none.
_METADATA_SERVICES = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")

# A request cannot be interrupted: it ends at its own timeout.
_left_behind = LeftBehind(allowed=8)


class _StoppedError(Exception):
    """Raised in the transfer's thread to stop it: the job was cancelled."""


def download(url: str, file: BinaryIO, settings: PictureSettings, context: PictureContext) -> None:
    """Write an object to `file`.

    Raises `JobError`: path_not_allowed, input_too_large, input_not_found, storage_unavailable.
    """
    place, store, name = _opened("image_url", url, settings)
    limit_bytes = settings.limits.max_input_bytes

    def transfer(stop: Event) -> None:
        import obstore

        result = obstore.get(store, name)
        if result.meta["size"] > limit_bytes:
            raise too_large(limit_bytes)
        for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
            if stop.is_set():
                return
            keep(memoryview(chunk), file)

    context.progress(0, "fetch", budget_s=_BUDGET_S)
    with _translated(place, ErrorCode.INPUT_NOT_FOUND):
        _wait_for(transfer, context)


def upload(
    url: str, file: BinaryIO, media_type: str, settings: PictureSettings, context: PictureContext
) -> None:
    """Make an object of `file`: whole, or not at all. An object of that name is replaced.

    Raises `JobError`: path_not_allowed, output_unwritable, storage_unavailable.
    """
    place, store, name = _opened("output_url", url, settings)

    def transfer(stop: Event) -> None:
        import obstore

        obstore.put(store, name, _chunks(file, stop), attributes={"Content-Type": media_type})

    context.progress(100, "upload", budget_s=_BUDGET_S)
    file.seek(0)
    with _translated(place, ErrorCode.OUTPUT_UNWRITABLE):
        _wait_for(transfer, context)


def check_object_url(field: str, url: str, settings: PictureSettings) -> None:
    """Check an object's URL before the work. Raises `JobError` (path_not_allowed, invalid_job)."""
    parts = allowed_url(field, url, settings.access.url_prefixes)
    if parts.query:
        raise JobError(ErrorCode.INVALID_JOB, f"{field}: the URL of an object has no query")
    if "//" in parts.path:
        # obstore would take it as another object's, with one slash.
        raise JobError(ErrorCode.INVALID_JOB, f"{field}: the URL has a folder without a name")


def _opened(field: str, url: str, settings: PictureSettings) -> tuple[str, ObjectStore, str]:
    """The URL, the store of its folder, and the object's name in it."""
    check_object_url(field, url, settings)
    folder, _, name = url.rpartition("/")
    try:
        return url, open_store(folder), name
    except ImportError:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{field} needs a package that is not installed: run `pip install 'upscaled[storage]'`",
        ) from None
    except ValueError:
        raise JobError(ErrorCode.INVALID_JOB, f"{field}: {url} names no bucket") from None
    except ObjectStorageError as error:
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"{field}: {url} cannot be used ({error}): check this machine's settings and "
            "credentials for the storage",
        ) from None


def _chunks(file: BinaryIO, stop: Event) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK_BYTES):
        if stop.is_set():
            raise _StoppedError
        yield chunk


def _wait_for(transfer: Callable[[Event], None], context: PictureContext) -> None:
    """Run the transfer in a thread, so that a cancel need not wait for a request."""
    stop, failures = Event(), list[BaseException]()

    def run() -> None:
        try:
            transfer(stop)
        except BaseException as error:  # noqa: BLE001 - raised again in the job's thread
            failures.append(error)

    _left_behind.wait()
    thread = Thread(target=run, name="object transfer", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
            context.check_cancelled()
    finally:
        stop.set()
        _left_behind.end(thread)
    if failures:
        raise failures.pop()


@contextmanager
def _translated(place: str, missing: ErrorCode) -> Iterator[None]:
    """Errors of the storage as `JobError`, `missing` if there is no such object or bucket."""
    try:
        with plain_errors():
            yield
    except FileNotFoundError:
        what = "object" if missing is ErrorCode.INPUT_NOT_FOUND else "bucket for"
        raise JobError(missing, f"there is no {what} {place}") from None
    except ObjectStorageRefusedError:
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"the storage refuses access to {place}: check this machine's credentials",
        ) from None
    except ObjectStorageError as error:
        if any(service in str(error) for service in _METADATA_SERVICES):
            raise JobError(
                ErrorCode.PATH_NOT_ALLOWED,
                f"no credentials were found for {place}: set the variables of its cloud, such as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the machine a role",
            ) from None
        raise JobError(
            ErrorCode.STORAGE_UNAVAILABLE,
            f"the storage of {place} cannot be used ({error}): try again later",
        ) from None
