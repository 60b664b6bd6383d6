"""Which hosts URLs may lead to: public addresses, and listed hosts."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from upscaled_protocol.urlpolicy import (
    HostNotAllowedError,
    HostPort,
    UrlPolicy,
    is_public,
)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("239.1.1.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:7f00:1::", False),
        ("2001:0:a00:1::", False),
        ("192.0.0.192", False),
        ("192.88.99.1", False),
        ("fec0::1", False),
        ("64:ff9b:1::a00:1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("100::1", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(ip_address(address)) is public


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("minio:9000", "minio", 9000),
        ("Minio.Example:80", "minio.example", 80),
        ("10.0.0.5:443", "10.0.0.5", 443),
        ("[::1]:9000", "::1", 9000),
        ("[0:0:0:0:0:0:0:1]:9000", "::1", 9000),
    ],
)
def test_a_host_is_listed_with_its_port(text: str, host: str, port: int) -> None:
    assert HostPort.parse(text) == (host, port)
    assert HostPort.parse(str(HostPort.parse(text))) == (host, port)


@pytest.mark.parametrize(
    "text",
    ["", "minio", "minio:", ":9000", "minio:0", "minio:65536", "minio:http", "::1:9000", "[::1]",
     "http://minio:9000", "minio:9000/bucket", "me@minio:9000", "*:9000:1", "[::1:9000"],
)  # fmt: skip
def test_a_text_that_is_not_host_and_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port") as caught:
        HostPort.parse(text)
    assert repr(text) in str(caught.value)


def test_a_listed_ipv6_address_is_allowed_in_each_of_its_spellings() -> None:
    loopback = UrlPolicy(allow_hosts=frozenset([HostPort.parse("[::1]:9000")]))
    assert loopback.addresses("0:0:0:0:0:0:0:1", 9000) == ["::1"]
    with pytest.raises(HostNotAllowedError):
        loopback.addresses("::2", 9000)


@pytest.mark.parametrize("host", ["10.0.0.5", "::1", "169.254.169.254"])
def test_a_private_address_is_refused_without_a_look_up(host: str) -> None:
    with pytest.raises(HostNotAllowedError, match="not on the public internet"):
        UrlPolicy().check(host, 80)
    UrlPolicy(allow_private=True).check(host, 80)
    UrlPolicy(allow_hosts=frozenset([HostPort(host, 80)])).check(host, 80)


def test_a_name_needs_a_look_up_unless_hosts_are_listed() -> None:
    UrlPolicy().check("a.example", 80)
    listed = UrlPolicy(allow_private=True, allow_hosts=frozenset([HostPort("a.example", 80)]))
    listed.check("A.example", 80)
    with pytest.raises(HostNotAllowedError, match=r"b\.example:80 is not one of the allowed hosts"):
        listed.check("b.example", 80)
