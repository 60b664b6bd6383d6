"""Object storage by its URL (s3://, gs://, az://): the store, its retries, and what went wrong.

Transfers of pictures (`objectstore`) and the buckets of pipelines stand on this. Credentials come
from the machine alone: environment variables, or the role of the machine or pod. The library,
obstore, is imported at its first use: a process that was forked after that use hangs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

SCHEMES = ("s3", "gs", "az")
# An outage of a minute is waited out: requests that fail with 5xx, a reset or a timeout are
# repeated for so long.
RETRIES: RetryConfig = {
    "max_retries": 30,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=4),
        "base": 2,
    },
}
_LONGEST_REASON = 200


class ObjectStorageError(Exception):
    """Raised if the storage cannot be used. `str(error)` is the reason, without secrets."""


class ObjectStorageRefusedError(ObjectStorageError):
    """Raised if the storage refuses access: the credentials are wrong, or allow less."""


def open_store(url: str) -> ObjectStore:
    """The store of a bucket, or of a folder in it. Nothing is sent yet.

    Raises `ImportError` without the extra [storage], `ValueError` if the URL names no bucket, and
    `ObjectStorageError` if the machine's settings for the storage cannot be used.
    """
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme, _, place = url.partition("://")
    bucket, _, folder = place.rstrip("/").partition("/")
    if scheme not in SCHEMES or not bucket or "//" in place.rstrip("/"):
        raise ValueError(f"{url!r} is no bucket: use s3://NAME, gs://NAME or az://NAME")
    try:
        # obstore reads escapes in a URL's folder, and none in an object's name. We have no escapes.
        return from_url(f"{scheme}://{bucket}/{quote(folder)}", retry_config=RETRIES)
    except ValueError as error:
        raise ValueError(f"{url!r} is no bucket: {error}") from None
    except BaseError as error:
        raise ObjectStorageError(_reason(error)) from None


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise obstore's errors as `ObjectStorageError`, and as `FileNotFoundError` if there is no
    such object or bucket."""
    from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchUpload" in str(error):
            # An upload's end was asked for again, because the answer was lost: it may be whole.
            raise ObjectStorageError(_reason(error)) from None
        raise
    except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
        raise ObjectStorageRefusedError(_reason(error)) from None
    except (BaseError, OSError) as error:
        raise ObjectStorageError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """obstore's first sentence. It has no query of a URL, which may be a signature, and of the
    server's answer only the code, because some servers answer with what was signed."""
    text = str(error).strip()
    first = re.sub(r"\?\S*", "", text.partition("\n")[0])
    status = re.match(r"(.*) - Server returned non-2xx status code: (\d{3}[\w ]*)", first)
    if status is not None:
        code = re.search(r"<Code>(\w+)</Code>", text)
        answer = status[2] if code is None else f"{status[2]}, {code[1]}"
        first = f"{answer}: {status[1]}"
    return "".join(filter(str.isprintable, first))[:_LONGEST_REASON].rstrip(". ")
