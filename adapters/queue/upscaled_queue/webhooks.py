"""A queued job's `webhook_url`: the check of the URL, and the message about the job's end.

The message is recorded with the end in one step, and sent by `sender`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.lines import encode_line
from upscaled_protocol.urlpolicy import HostNotAllowedError, HostPort, UrlPolicy
from upscaled_queue.job import Message
from upscaled_webhooks.webhookurl import host_of

# The variables of the sidecar, so that a fleet and its sidecar are set alike.
PREFIX = "UPSCALED_WEBHOOKS_"
_SECRET = PREFIX + "SECRET"
_ALLOW_HOSTS = PREFIX + "ALLOW_HOSTS"

# Fields of a terminal event that only the operator sees, as over HTTP.
_HIDDEN = ("type", "cause", "traceback", "refused_job_id")
# An id that can be a header's value.
_PLAIN_ID = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True)
class WebhookSettings:
    """secret: signs the messages. destinations: the hosts that may get them."""

    secret: str = field(repr=False)
    destinations: UrlPolicy


class Webhook(NamedTuple):
    """A webhook, as it is recorded with a job's end. receiver: host:port."""

    receiver: str
    url: str
    body: bytes
    message_id: str


def read_webhook_settings(
    env: Mapping[str, str], allow_hosts: Iterable[str] = ()
) -> WebhookSettings | None:
    """The settings of webhooks; None if no secret is set, because then none are sent. allow_hosts:
    in addition to those of the environment. Raises `ValueError`."""
    secret, path = env.get(_SECRET), env.get(f"{_SECRET}_FILE")
    if not secret and path:
        try:
            secret = Path(path).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{_SECRET}_FILE: {path} cannot be read: {error}") from None
    hosts = [*filter(None, env.get(_ALLOW_HOSTS, "").replace(" ", "").split(",")), *allow_hosts]
    try:
        destinations = UrlPolicy(allow_hosts=frozenset(map(HostPort.parse, hosts)))
    except ValueError as error:
        raise ValueError(f"the hosts that webhooks may go to: {error}") from None
    if not secret:
        return None
    from upscaled_webhooks.signatures import check_secret  # its library is in an extra

    try:
        check_secret(secret)
    except ValueError as error:
        raise ValueError(f"{_SECRET}: {error}") from None
    return WebhookSettings(secret, destinations)


def check_webhook(url: object, job_id: str, settings: WebhookSettings | None) -> None:
    """Raise `JobError` for a webhook that this machine would not send."""
    if url is None:
        return
    try:
        if not isinstance(url, str):
            raise ValueError("webhook_url is a text")
        host = host_of(url, "webhook_url")
        if settings is None:
            raise ValueError(
                f"webhook_url: this machine sends no webhooks, because its {_SECRET} is not set"
            )
        settings.destinations.check(*host)
    except ValueError as error:
        raise JobError(ErrorCode.INVALID_JOB, str(error), job_id=job_id) from None
    except HostNotAllowedError as error:
        raise JobError(ErrorCode.PATH_NOT_ALLOWED, f"webhook_url: {error}", job_id=job_id) from None


def webhook_of(
    url: object, method: str, event: Message, settings: WebhookSettings | None
) -> Webhook | None:
    """The message about a job's end; None if the job names no URL, or one that is refused."""
    try:
        check_webhook(url, event["job_id"], settings)
    except JobError:
        return None
    return None if url is None else message_of(str(url), method, event)


def message_of(url: str, method: str, event: Message) -> Webhook:
    """The message about a job's end."""
    job_id = event["job_id"]
    now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    status = "completed"
    if event["type"] == "error":
        status = "cancelled" if event.get("code") == ErrorCode.CANCELLED.value else "failed"
    told = {name: value for name, value in event.items() if name not in _HIDDEN}
    job: Message = {**told, "method": method, "status": status, "finished_at": now}
    if status == "completed":
        job["progress"] = 100.0
    body = encode_line({"type": f"job.{status}", "timestamp": now, "data": job}).rstrip(b"\n")
    return Webhook(str(host_of(url)), url, body, message_id(job_id))


def message_id(job_id: str) -> str:
    """The job's id if it can be a header's value, else its digest."""
    if _PLAIN_ID.fullmatch(job_id):
        return job_id
    return hashlib.sha256(job_id.encode(errors="surrogatepass")).hexdigest()
