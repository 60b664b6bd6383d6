"""The URL of a queue: its engine, its broker and its record."""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

Engine = Literal["celery", "bullmq"]

_SCHEMES: dict[str, tuple[Engine, str]] = {
    "redis": ("celery", "redis"),
    "rediss": ("celery", "rediss"),
    "amqp": ("celery", "amqp"),
    "amqps": ("celery", "amqps"),
    "bullmq": ("bullmq", "redis"),
    "bullmqs": ("bullmq", "rediss"),
}


class QueueUrlError(ValueError):
    """Raised when a URL names no queue. `str(error)` is one sentence for people."""


class QueueUrl(NamedTuple):
    """broker: the URL for the engine's client. record: the Redis that holds the ends of jobs."""

    engine: Engine
    broker: str
    record: str

    @property
    def is_redis(self) -> bool:
        """True if the jobs wait in Redis, False if in RabbitMQ."""
        return self.broker.startswith("redis")


def read_queue_url(url: str | None, record_url: str | None = None) -> QueueUrl:
    """The queue of these URLs. Raises `QueueUrlError`."""
    if not url:
        raise QueueUrlError("no queue is named: give --queue URL, or set UPSCALED_QUEUE_URL")
    scheme = _scheme_of(url)
    if scheme not in _SCHEMES:
        known = ", ".join(f"{name}://" for name in _SCHEMES)
        raise QueueUrlError(f"the queue {shown(url)} is of no known kind; known: {known}")
    engine, own = _SCHEMES[scheme]
    broker = own + url[len(scheme) :]
    record = record_url or (broker if own.startswith("redis") else "")
    if _scheme_of(record) not in {"redis", "rediss"}:
        raise QueueUrlError(
            "RabbitMQ keeps no results: give --record redis://..., or set UPSCALED_QUEUE_RECORD"
        )
    if not own.startswith("redis") and urlsplit(broker).query:
        raise QueueUrlError(
            f"the queue {shown(url)} has options behind a ?, and RabbitMQ's client takes none: "
            "leave them out, and name an authority of your own by SSL_CERT_FILE"
        )
    for one in {broker, record}:
        database = urlsplit(one).path.strip("/")
        if one.startswith("redis") and database and not database.isdecimal():
            raise QueueUrlError(f"the URL {shown(one)} names no database of Redis: it is a number")
    return QueueUrl(engine, _checking_certificate(broker), _checking_certificate(record))


def _checking_certificate(url: str) -> str:
    """A `rediss://` URL that says whether the server's certificate is checked, in the words of
    redis-py. Without that kombu does not check it, and Celery refuses to write results."""
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    # Celery's own words are CERT_REQUIRED, CERT_OPTIONAL and CERT_NONE.
    check = options.get("ssl_cert_reqs", "required").removeprefix("CERT_").lower()
    query = urlencode({**options, "ssl_cert_reqs": check}, safe="/", quote_via=quote)
    return urlunsplit(parts._replace(query=query))


def _scheme_of(url: str) -> str:
    """The scheme, in lower case. Raises `QueueUrlError` if the rest cannot be read either."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, because it raises
    except ValueError as error:
        raise QueueUrlError(f"a queue's URL cannot be read: {error}") from None
    return parts.scheme


def shown(url: str) -> str:
    """The URL without its user and password, for sentences and logs."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))
