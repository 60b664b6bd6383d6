"""The Host and the Origin that a server without keys accepts.

A page of any origin can reach a server on loopback: by a request that needs no preflight, or by a
host name of its own that resolves to 127.0.0.1 (DNS rebinding). So a public host name is accepted
only if the operator lists it. An address, or a name that public DNS does not serve, is accepted.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

# Reserved for private networks: RFC 6761, RFC 6762, and ICANN's decision on .internal.
_PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")

_DEFAULT_PORTS = {"http": 80, "https": 443}


def is_host_allowed(host: str, allowed: Collection[str]) -> bool:
    """True if a request may have that Host. allowed: names without ports."""
    name = _name_of(host)
    if name is None:
        return False
    return (
        "." not in name
        or name.endswith(_PRIVATE_SUFFIXES)
        or name in {one.lower() for one in allowed}
        or _is_address(name)
    )


def is_origin_allowed(origin: str, host: str, allowed: Collection[str]) -> bool:
    """True if a page of that Origin may write: the server's own page, or an allowed one."""
    if origin in allowed or "*" in allowed:
        return True
    try:
        parts = urlsplit(origin)
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        own = urlsplit(f"{parts.scheme}://{host}")
        own_port = own.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        return False
    return parts.hostname is not None and (parts.hostname, port) == (own.hostname, own_port)


def _name_of(host: str) -> str | None:
    """The name without the port and the last dot; None if it is not a host."""
    try:
        parts = urlsplit(f"//{host}")
        name = parts.hostname
        _ = parts.port
    except ValueError:
        return None
    if not name or parts.netloc != host or "@" in host:
        return None
    return name.rstrip(".") or None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
