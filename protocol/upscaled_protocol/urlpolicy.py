"""Which hosts a URL from outside may lead to.

Every address that a name resolves to is checked. The caller must connect to one of the addresses
that it gets here, because a second look-up of the name may give another one (DNS rebinding).
Source: OWASP, Server-Side Request Forgery Prevention Cheat Sheet.
"""

from __future__ import annotations

import socket
from argparse import ArgumentTypeError
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from upscaled_protocol.flags import flag, switch

# IPv6 addresses that a gateway turns into the IPv4 address in their last four bytes (RFC 6052).
_NAT64 = IPv6Network("64:ff9b::/96")
# The part of IPv6 that IANA has assigned; the rest includes site-local addresses.
_GIVEN_OUT = IPv6Network("2000::/3")
# Not public, but missing in the tables of some Pythons: protocol assignments (a cloud serves its
# machines' credentials at 192.0.0.192), relays of 6to4, and documentation.
_SPECIAL = (
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv6Network("3fff::/20"),
)


class HostNotAllowedError(Exception):
    """Raised for a host that is not allowed. Its text is a sentence without the URL."""


class HostNotFoundError(Exception):
    """Raised for a name without an address."""


class HostPort(NamedTuple):
    """A host, in lower case and without brackets, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> HostPort:
        """Read `host:port`; an IPv6 address stands in brackets. Raises `ValueError`."""
        try:
            parts = urlsplit(f"//{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if not host or not port or parts.netloc != text or "@" in text:
            raise ValueError(f"{text!r} is not host:port, as in minio:9000 or [::1]:9000")
        return cls(_plain(host), port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _host_port(text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class UrlPolicy:
    """The allowed hosts: every public address; with `allow_private` every other address too. If
    `allow_hosts` has entries, only these are allowed, public or private."""

    allow_private: bool = switch("let image_url reach private networks", name="allow-private-urls")
    allow_hosts: frozenset[HostPort] = flag(
        "let image_url reach this host, and no host that is not given so; may be repeated",
        _host_port,
        default=frozenset(),
        name="allow-host",
        metavar="HOST:PORT",
        collect=frozenset,
    )

    def addresses(self, host: str, port: int) -> list[str]:
        """Look the host up and return its addresses, all of which are allowed.

        Raises `HostNotAllowedError` and `HostNotFoundError`. Waits for the system's resolver.
        """
        self.check(host, port)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise HostNotFoundError(f"there is no host {host}") from None
        addresses = [str(entry[4][0]) for entry in found]
        if not self.allow_hosts and not self.allow_private:
            _check_public(host, addresses)
        return addresses

    def check(self, host: str, port: int) -> None:
        """Raise `HostNotAllowedError` if the host can be refused without a look-up."""
        if self.allow_hosts:
            if HostPort(_plain(host), port) not in self.allow_hosts:
                raise HostNotAllowedError(f"{host}:{port} is not one of the allowed hosts")
        elif not self.allow_private:
            with suppress(ValueError):  # a name
                _check_public(host, [str(ip_address(host))])


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """True if an address is public. If an IPv6 address contains an IPv4 one, that counts."""
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return is_public(wrapped)
        if address not in _GIVEN_OUT:
            return False
    if any(address in network for network in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _check_public(host: str, addresses: Iterable[str]) -> None:
    # A name that has public and private addresses is an attack.
    for address in addresses:
        if not is_public(ip_address(address)):
            raise HostNotAllowedError(
                f"{host} is not on the public internet, and not one of the allowed hosts"
            )


def _plain(host: str) -> str:
    """One spelling per host: `urlsplit` gives lower case, but any form of an IPv6 address."""
    try:
        return str(IPv6Address(host))
    except ValueError:
        return host.lower()
