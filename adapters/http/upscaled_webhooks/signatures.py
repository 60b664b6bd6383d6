"""Signatures of webhooks. By them a receiver knows that this server sent a webhook.

Source: Standard Webhooks, https://www.standardwebhooks.com.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime

from standardwebhooks.webhooks import Webhook

_PREFIX = "whsec_"
# The specification's bounds.
_MIN_BYTES, _MAX_BYTES = 24, 64


def check_secret(secret: str) -> None:
    """Raise `ValueError` if the secret cannot sign webhooks. The text does not show the secret."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or not _MIN_BYTES <= len(key) <= _MAX_BYTES:
        raise ValueError(
            f"needs {_PREFIX} and the base64 of {_MIN_BYTES} to {_MAX_BYTES} random bytes; "
            f'`echo "{_PREFIX}$(openssl rand -base64 32)"` makes one'
        )


class Signer:
    """Raises `ValueError` if the secret cannot sign."""

    def __init__(self, secret: str) -> None:
        check_secret(secret)
        self._webhook = Webhook(secret)

    def headers(self, message_id: str, now: float, body: bytes) -> dict[str, str]:
        """The headers of one attempt. now: its start, in seconds since 1970. Each attempt has its
        own headers, because receivers refuse a message that is some minutes old."""
        signature = self._webhook.sign(message_id, datetime.fromtimestamp(now, UTC), body.decode())
        return {
            "content-type": "application/json",
            "user-agent": "upscaled",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now)),
            "webhook-signature": signature,
        }
