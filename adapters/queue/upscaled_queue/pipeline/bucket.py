"""The bucket: pictures in folders, and one record per job that is written only once.

Credentials come from the environment (AWS_ACCESS_KEY_ID and so on) or the machine's role.
"""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

GOOD, UPSCALED, FAILED = FOLDERS = ("good_quality", "upscaled", "couldn't_upscale")
INCOMING = "incoming"
_RECORDS = "results"
# An outage of about a minute is waited out.
_RETRIES: RetryConfig = {
    "max_retries": 30,
    "retry_timeout": timedelta(seconds=90),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=4),
        "base": 2,
    },
}


class StorageUnavailableError(Exception):
    """Raised if the bucket cannot be reached, or refuses: the same may succeed later."""


class Bucket:
    """The objects below ``url``, as in ``s3://bucket/prefix``."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for a URL of another kind. Nothing is sent yet."""
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        self.url = url.rstrip("/")
        if not self.url.startswith(("s3://", "gs://", "az://")):
            raise ValueError(f"{url!r} is no bucket: use s3://NAME, gs://NAME or az://NAME")
        try:
            self._store: ObjectStore = from_url(self.url, retry_config=_RETRIES)
        except (BaseError, ValueError) as error:
            raise ValueError(f"{self.url} cannot be used: {first_sentence(error)}") from None

    def url_of(self, place: str) -> str:
        """The URL of an object, without credentials."""
        return f"{self.url}/{place}"

    async def read(self, place: str, to: Path) -> None:
        """Write an object to a file. Raises `FileNotFoundError` and `StorageUnavailableError`."""
        import obstore

        with _translated():
            result = await obstore.get_async(self._store, place)
            with to.open("wb") as file:
                async for chunk in result.stream():
                    file.write(chunk)

    async def write(self, place: str, path: Path) -> None:
        """Make an object of a file: whole, or not at all. Raises `StorageUnavailableError`."""
        import obstore

        with _translated():
            await obstore.put_async(self._store, place, path)

    async def delete(self, place: str) -> None:
        """Delete an object, if there is one. Raises `StorageUnavailableError`."""
        import obstore

        try:
            with _translated():
                await obstore.delete_async(self._store, place)
        except FileNotFoundError:
            pass

    async def record(self, job_id: str) -> dict[str, Any] | None:
        """The record of a job, None if it has none yet. Raises `StorageUnavailableError`."""
        import obstore

        try:
            with _translated():
                result = await obstore.get_async(self._store, _record_of(job_id))
                return dict(json.loads(bytes(await result.bytes_async())))
        except FileNotFoundError:
            return None

    async def write_record(self, job_id: str, record: dict[str, Any]) -> bool:
        """Write a job's record if it has none; False if it has one, which then stays.

        Raises `StorageUnavailableError`.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        data = json.dumps(record, ensure_ascii=False).encode()
        with _translated():
            try:
                await obstore.put_async(self._store, _record_of(job_id), data, mode="create")
            except AlreadyExistsError:
                return False
        return True


def first_sentence(error: Exception) -> str:
    """What went wrong, without the request: that may have a signature in it."""
    text = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return text.split("?", 1)[0][:200]


def _record_of(job_id: str) -> str:
    return f"{_RECORDS}/{job_id}.json"


class _translated:  # noqa: N801 - used as a function
    """Raises the library's errors as `FileNotFoundError` or `StorageUnavailableError`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from obstore.exceptions import BaseError

        if isinstance(error, FileNotFoundError):
            return
        if isinstance(error, BaseError):
            raise StorageUnavailableError(first_sentence(error)) from None
