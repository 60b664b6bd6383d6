"""The form of a webhook's URL."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from upscaled_protocol.urlpolicy import HostPort

MAX_URL_LENGTH = 2048
_VISIBLE_ASCII = re.compile(r"[!-~]+")
# RFC 1035, 2.3.4.
_LONGEST_HOST = 253
_USUAL_PORTS = {"http": 80, "https": 443}


def host_of(url: str, name: str = "webhook") -> HostPort:
    """The host and the port of a webhook's URL. Raises `ValueError`, whose text begins with `name`,
    the field that has the URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{name} is not a valid URL") from None
    if len(url) > MAX_URL_LENGTH:
        raise ValueError(f"{name} is longer than {MAX_URL_LENGTH} characters")
    if not _VISIBLE_ASCII.fullmatch(url):
        raise ValueError(f"{name} may have only ASCII letters, digits and signs, and no spaces")
    if parts.scheme not in _USUAL_PORTS:
        raise ValueError(f"{name} must begin with http:// or https://")
    if not host or len(host) > _LONGEST_HOST or port == 0:
        raise ValueError(f"{name} is not a valid URL")
    if "@" in parts.netloc:
        raise ValueError(
            f"{name} must not hold a user name or a password; check the signature instead"
        )
    return HostPort(host, port or _USUAL_PORTS[parts.scheme])
