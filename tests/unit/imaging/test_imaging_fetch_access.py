"""Which hosts a URL may lead to, and that a connection goes to the host that was checked."""

from __future__ import annotations

import io
import shutil
import socket
import ssl
import subprocess
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from picture_server import Handler, fetch_error, png
from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Access, PictureSettings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy
from waiting import TIMEOUT_S


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/a.png", "file:///etc/passwd", "//example.org/a.png", "gopher://127.0.0.1/"],
)
def test_other_schemes_are_refused(
    url: str, private: PictureSettings, context: PictureContext
) -> None:
    assert fetch_error(url, private, context).code is ErrorCode.PATH_NOT_ALLOWED


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a:b/", "http://a:99999/"])
def test_a_text_that_is_no_url_is_refused(
    url: str, private: PictureSettings, context: PictureContext
) -> None:
    config = EsrganConfig(image_url=url)
    with pytest.raises(JobError) as caught, open_source(config, private, context):
        pass
    assert caught.value.code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
     "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "10.0.0.1", "169.254.169.254"],
)  # fmt: skip
def test_private_addresses_are_never_connected_to(
    server: ThreadingHTTPServer, settings: PictureSettings, context: PictureContext, host: str
) -> None:
    error = fetch_error(f"http://{host}:{server.server_port}/picture", settings, context)
    assert error.code in (ErrorCode.PATH_NOT_ALLOWED, ErrorCode.INPUT_NOT_FOUND)
    assert Handler.seen == []


@pytest.fixture
def listed(server: ThreadingHTTPServer, settings: PictureSettings) -> PictureSettings:
    """The server is the only allowed host."""
    host = HostPort("127.0.0.1", server.server_port)
    return replace(settings, access=Access(urls=UrlPolicy(allow_hosts=frozenset([host]))))


def test_a_listed_host_of_a_private_network_is_fetched_from(
    base: str, listed: PictureSettings, context: PictureContext
) -> None:
    file = io.BytesIO()
    fetch(base + "/redirect?/picture", file, listed, context)
    assert file.getvalue() == png()


@pytest.mark.parametrize("allow_private", [False, True])
def test_a_list_of_hosts_allows_no_other_host_port_or_spelling(
    server: ThreadingHTTPServer,
    listed: PictureSettings,
    context: PictureContext,
    allow_private: bool,
) -> None:
    access = Access(urls=replace(listed.access.urls, allow_private=allow_private))
    port = server.server_port
    for place in (f"localhost:{port}", f"127.0.0.1:{port ^ 1}", "127.0.0.1", f"127.1:{port}",
                  "93.184.216.34", "[v1.a:b]"):  # fmt: skip
        error = fetch_error(f"http://{place}/picture", replace(listed, access=access), context)
        assert (place, error.code) == (place, ErrorCode.PATH_NOT_ALLOWED)
    assert Handler.seen == []


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
    base: str, listed: PictureSettings, context: PictureContext
) -> None:
    other = base.replace("127.0.0.1", "localhost") + "/picture"
    error = fetch_error(f"{base}/redirect?{other}", listed, context)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "not one of the allowed hosts" in error.message
    assert [path for path, _ in Handler.seen] == [f"/redirect?{other}"]


@pytest.mark.usefixtures("only_first_loopback")
def test_a_redirect_into_the_private_network_is_refused(
    base: str, settings: PictureSettings, context: PictureContext
) -> None:
    inside = base.replace("127.0.0.1", "127.0.0.2") + "/picture"
    error = fetch_error(f"{base}/redirect?{inside}", settings, context)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert [path for path, _ in Handler.seen] == [f"/redirect?{inside}"]


@pytest.mark.usefixtures("only_first_loopback")
def test_the_connection_goes_to_the_address_that_was_checked(
    server: ThreadingHTTPServer,
    settings: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["127.0.0.1"])  # a second look-up would fail
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host == "rebinding.example":
            host = next(answers)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    file = io.BytesIO()
    fetch(f"http://rebinding.example:{server.server_port}/picture", file, settings, context)
    assert file.getvalue() == png()
    assert Handler.seen == [("/picture", f"rebinding.example:{server.server_port}")]


@pytest.mark.usefixtures("only_first_loopback")
def test_one_private_address_among_public_ones_is_enough(
    server: ThreadingHTTPServer,
    settings: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [(2, 1, 6, "", (address, 80)) for address in ("127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    url = f"http://mixed.example:{server.server_port}/picture"
    assert fetch_error(url, settings, context).code is ErrorCode.PATH_NOT_ALLOWED
    assert Handler.seen == []


def certificate(folder: Path) -> Path:
    path = folder / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out",
         folder / "public.pem"],
        check=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (folder / "public.pem").read_bytes())
    return path


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_https_is_verified(
    tmp_path: Path,
    private: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
    server: ThreadingHTTPServer,
) -> None:
    path = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    url = f"https://localhost:{server.server_port}/picture"
    assert fetch_error(url, private, context).code is ErrorCode.INPUT_UNREADABLE
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    file = io.BytesIO()
    fetch(url, file, private, context)
    assert file.getvalue() == png()
    other_name = url.replace("localhost", "127.0.0.1")
    assert fetch_error(other_name, private, context).code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("port", "host"), [("", "localhost"), (":8443", "localhost:8443")])
def test_the_host_header_has_the_port_unless_it_is_the_usual_one(
    tmp_path: Path,
    private: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
    server: ThreadingHTTPServer,
    port: str,
    host: str,
) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate(tmp_path))
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    connect = socket.socket.connect

    def connect_to_server(stream: socket.socket, _: object) -> None:
        connect(stream, ("127.0.0.1", server.server_port))

    monkeypatch.setattr(socket.socket, "connect", connect_to_server)
    fetch(f"https://localhost{port}/picture", io.BytesIO(), private, context)
    assert Handler.seen == [("/picture", host)]
