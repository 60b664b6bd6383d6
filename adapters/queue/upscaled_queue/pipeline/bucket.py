"""The bucket: pictures in folders, and one record per job that is written only once."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from upscaled_imaging.storage import ObjectStorageError, open_store, plain_errors

GOOD, UPSCALED, FAILED = FOLDERS = ("good_quality", "upscaled", "couldn't_upscale")
INCOMING = "incoming"
_RECORDS = "results"


class BadRecordError(ObjectStorageError):
    """Raised for an object in the place of a record that is no record."""

    def __init__(self, job_id: str) -> None:
        place = _record_of(job_id)
        super().__init__(f"{place} is no record: delete it, and the picture is processed again")


class Bucket:
    """The objects below `url`, as in `s3://bucket/prefix`."""

    def __init__(self, url: str) -> None:
        """Raises `ValueError` for a URL that cannot be used, and `ImportError` without the extra
        [storage]. Nothing is sent yet."""
        # Each result and record has the URL, so it must have no secret.
        if re.search(r"^\w+://[^/]*@|[?#]", url):
            raise ValueError(
                "a bucket's URL has no user, password, query or fragment: give s3://NAME/PREFIX, "
                "and the credentials in the environment"
            )
        self.url = url.rstrip("/")
        try:
            self._store = open_store(self.url)
        except ObjectStorageError as error:
            raise ValueError(f"{self.url} cannot be used: {error}") from None

    def url_of(self, place: str) -> str:
        """The URL of an object, without credentials."""
        return f"{self.url}/{place}"

    async def read(self, place: str, to: Path) -> None:
        """Write an object to a file. Raises `FileNotFoundError` and `ObjectStorageError`."""
        import obstore

        with plain_errors():
            result = await obstore.get_async(self._store, place)
            with to.open("wb") as file:
                async for chunk in result.stream():
                    file.write(chunk)

    async def write(self, place: str, path: Path) -> None:
        """Make an object of a file: whole, or not at all. Raises `ObjectStorageError`."""
        import obstore

        try:
            with plain_errors():
                await obstore.put_async(self._store, place, path)
        except FileNotFoundError:
            if not path.exists():
                raise
            raise ObjectStorageError("there is no such bucket") from None

    async def delete(self, place: str) -> None:
        """Delete an object, if there is one. Raises `ObjectStorageError`."""
        import obstore

        try:
            with plain_errors():
                await obstore.delete_async(self._store, place)
        except FileNotFoundError:
            pass

    async def record(self, job_id: str) -> dict[str, Any] | None:
        """The record of a job, None if it has none yet. Raises `ObjectStorageError`, and
        `BadRecordError` for an object that is no record."""
        import obstore

        try:
            with plain_errors():
                result = await obstore.get_async(self._store, _record_of(job_id))
                data = bytes(await result.bytes_async())
        except FileNotFoundError:
            return None
        try:
            record = json.loads(data)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise BadRecordError(job_id)
        return record

    async def write_record(self, job_id: str, record: dict[str, Any]) -> bool:
        """Write a job's record if it has none; False if it has one, which then stays.

        Raises `ObjectStorageError`.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        data = json.dumps(record, ensure_ascii=False).encode()
        with plain_errors():
            try:
                await obstore.put_async(self._store, _record_of(job_id), data, mode="create")
            except AlreadyExistsError:
                return False
        return True


def _record_of(job_id: str) -> str:
    return f"{_RECORDS}/{job_id}.json"
