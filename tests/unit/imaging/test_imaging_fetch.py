"""Pictures from URLs: what is fetched, and what a stranger may not make us fetch."""

from __future__ import annotations

import io
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recording import RecordingContext
from upscaled_imaging import fetch as fetching
from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Access, Limits, PictureSettings
from upscaled_protocol import urlpolicy
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy
from waiting import TIMEOUT_S

PIXELS = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    """A server of pictures, some of them wrong."""

    seen: list[tuple[str, str]]

    def do_GET(self) -> None:
        type(self).seen.append((self.path, self.headers["Host"]))
        name, _, argument = self.path.lstrip("/").partition("?")
        getattr(self, f"send_{name.partition('.')[0]}")(argument)

    def send_picture(self, _: str) -> None:
        data = png()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def send_chunked(self, _: str) -> None:
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        for part in (png()[:99], png()[99:]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def send_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        pace = threading.Event()
        while not pace.wait(0.001):  # the limit is not to be reached before a cancel is felt
            self.wfile.write(bytes(65536))

    def send_huge(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(10**12))
        self.end_headers()

    def send_wordy(self, _: str) -> None:
        self.send_response(500, "sorry \x1b[31m" + "again " * 5000)
        self.end_headers()

    def send_short(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5000")
        self.end_headers()
        self.wfile.write(png()[:100])

    def send_slow(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.rfile.read(1)  # until the client goes away

    def send_trickle(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        pace = threading.Event()
        while not pace.wait(0.02):
            self.wfile.write(b"x")

    def send_silent(self, _: str) -> None:
        self.rfile.read(1)

    def send_headers(self, _: str) -> None:
        self.send_response(200)
        self.flush_headers()
        pace = threading.Event()
        while not pace.wait(0.02):
            self.wfile.write(b"x")

    def send_status(self, status: str) -> None:
        self.send_error(int(status))

    def send_redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.end_headers()

    def send_again(self, _: str) -> None:
        self.send_redirect("/again")

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client had enough


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.seen = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def private(settings: PictureSettings) -> PictureSettings:
    return replace(settings, access=Access(urls=UrlPolicy(allow_private=True)))


@pytest.fixture
def only_first_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 plays the public internet, the rest of 127/8 the private network."""
    monkeypatch.setattr(urlpolicy, "is_public", lambda address: str(address) == "127.0.0.1")


def error_of(url: str, settings: PictureSettings, context: PictureContext) -> JobError:
    with pytest.raises(JobError) as caught:
        fetch(url, io.BytesIO(), settings, context)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    "path", ["/picture.png", "/picture.png?a=b%20c&d", "/chunked", "/redirect?/picture"]
)
def test_a_picture_is_fetched(
    base: str, private: PictureSettings, context: PictureContext, path: str
) -> None:
    config = EsrganConfig(image_url=base + path)
    with open_source(config, private, context) as source:
        assert np.array_equal(source.rows(100), PIXELS)
        assert source.path is None


def test_the_name_in_the_url_names_the_output(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    for path, stem in (("/picture.of%20a%2Fcat.png", "cat"), ("/picture", "picture")):
        with open_source(EsrganConfig(image_url=base + path), private, context) as source:
            assert source.stem == stem


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/status?404", ErrorCode.INPUT_NOT_FOUND),
        ("/status?403", ErrorCode.INPUT_UNREADABLE),
        ("/status?500", ErrorCode.INPUT_UNREADABLE),
        ("/huge", ErrorCode.INPUT_TOO_LARGE),
        ("/endless", ErrorCode.INPUT_TOO_LARGE),
        ("/short", ErrorCode.INPUT_UNREADABLE),
        ("/redirect?file:///etc/passwd", ErrorCode.PATH_NOT_ALLOWED),
        ("/redirect?http://", ErrorCode.INPUT_UNREADABLE),
        ("/redirect?http://[::1", ErrorCode.INPUT_UNREADABLE),
    ],
)  # fmt: skip
def test_what_cannot_be_fetched_is_one_plain_error(
    base: str, private: PictureSettings, context: PictureContext, path: str, code: ErrorCode
) -> None:
    small = replace(private, limits=Limits(max_input_bytes=1_000_000))
    assert error_of(base + path, small, context).code is code


def test_no_error_repeats_a_long_host(private: PictureSettings, context: PictureContext) -> None:
    error = error_of("http://" + "a." * 100_000 + "com/x.png", private, context)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert len(error.message) < 200


def test_of_a_servers_own_words_an_error_has_some(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    error = error_of(base + "/wordy", private, context)
    assert error.message.startswith("image_url answers 500 sorry")
    assert error.message.isprintable()
    assert len(error.message) < 200


def test_an_endless_redirect_ends(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    error = error_of(base + "/again", private, context)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert len(Handler.seen) == 6


@pytest.mark.parametrize("path", ["/slow", "/trickle"])
def test_a_server_that_takes_too_long_is_given_up(
    base: str,
    private: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
) -> None:
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", 0.3)
    error = error_of(base + path, private, context)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert "longer than 0.3 s" in error.message


class CancelledAt(RecordingContext):
    """A job that is cancelled once something is so."""

    def __init__(self, condition: Callable[[], object]) -> None:
        super().__init__()
        self._condition = condition

    def check_cancelled(self) -> None:
        if self._condition():
            raise JobError(ErrorCode.CANCELLED, "the host cancelled the job")


@pytest.mark.parametrize("path", ["/endless", "/slow", "/trickle", "/silent", "/headers"])
def test_a_cancelled_job_stops_fetching_whatever_it_waits_for(
    base: str, private: PictureSettings, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(fetching, "_SILENCE_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", TIMEOUT_S)
    context = CancelledAt(lambda: Handler.seen)
    assert error_of(base + path, private, context).code is ErrorCode.CANCELLED


def test_a_cancelled_job_stops_connecting(
    private: PictureSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_SILENCE_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", TIMEOUT_S)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as held:
        address = listener.getsockname()
        for _ in range(4):  # nobody accepts: the queue is full, and the next one has to wait
            stream = held.enter_context(socket.socket())
            stream.setblocking(False)
            stream.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/"
        assert error_of(url, private, CancelledAt(lambda: True)).code is ErrorCode.CANCELLED


def test_a_host_is_reached_at_any_of_its_addresses(
    server: ThreadingHTTPServer,
    private: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [(2, 1, 6, "", (address, 80)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    file = io.BytesIO()
    fetch(f"http://two.example:{server.server_port}/picture", file, private, context)
    assert file.getvalue() == png()


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org/a.png", "file:///etc/passwd", "//example.org/a.png", "gopher://127.0.0.1/"],
)
def test_other_schemes_are_refused(
    url: str, private: PictureSettings, context: PictureContext
) -> None:
    assert error_of(url, private, context).code is ErrorCode.PATH_NOT_ALLOWED


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://a:b/", "http://a:99999/"])
def test_what_is_no_url_is_refused(
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
    error = error_of(f"http://{host}:{server.server_port}/picture", settings, context)
    assert error.code in (ErrorCode.PATH_NOT_ALLOWED, ErrorCode.INPUT_NOT_FOUND)
    assert Handler.seen == []


@pytest.fixture
def listed(server: ThreadingHTTPServer, settings: PictureSettings) -> PictureSettings:
    """The server is the one host that may be fetched from."""
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
        error = error_of(f"http://{place}/picture", replace(listed, access=access), context)
        assert (place, error.code) == (place, ErrorCode.PATH_NOT_ALLOWED)
    assert Handler.seen == []


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
    base: str, listed: PictureSettings, context: PictureContext
) -> None:
    other = base.replace("127.0.0.1", "localhost") + "/picture"
    error = error_of(f"{base}/redirect?{other}", listed, context)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "not one of the allowed hosts" in error.message
    assert [path for path, _ in Handler.seen] == [f"/redirect?{other}"]


@pytest.mark.usefixtures("only_first_loopback")
def test_a_redirect_into_the_private_network_is_refused(
    base: str, settings: PictureSettings, context: PictureContext
) -> None:
    inside = base.replace("127.0.0.1", "127.0.0.2") + "/picture"
    error = error_of(f"{base}/redirect?{inside}", settings, context)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert [path for path, _ in Handler.seen] == [f"/redirect?{inside}"]


@pytest.mark.usefixtures("only_first_loopback")
def test_the_connection_goes_to_the_address_that_was_checked(
    server: ThreadingHTTPServer,
    settings: PictureSettings,
    context: PictureContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = iter(["127.0.0.1"])  # a second look-up would find nothing more
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
    assert error_of(url, settings, context).code is ErrorCode.PATH_NOT_ALLOWED
    assert Handler.seen == []


def test_a_full_disk_is_no_fault_of_the_server(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        config = EsrganConfig(image_url=base + "/picture")
        with pytest.raises(JobError) as caught, open_source(config, private, context):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "File too large" in caught.value.message


def test_proxies_of_the_environment_are_not_used(
    base: str, private: PictureSettings, context: PictureContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    file = io.BytesIO()
    fetch(base + "/picture", file, private, context)
    assert file.getvalue() == png()


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
    assert error_of(url, private, context).code is ErrorCode.INPUT_UNREADABLE
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))
    file = io.BytesIO()
    fetch(url, file, private, context)
    assert file.getvalue() == png()
    other_name = url.replace("localhost", "127.0.0.1")
    assert error_of(other_name, private, context).code is ErrorCode.INPUT_UNREADABLE


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(("port", "host"), [("", "localhost"), (":8443", "localhost:8443")])
def test_the_host_is_named_with_its_port_only_where_that_is_not_the_usual_one(
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


def test_a_server_that_is_gone_is_one_plain_error(
    private: PictureSettings, context: PictureContext
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert error_of(url, private, context).code is ErrorCode.INPUT_UNREADABLE


def test_an_unknown_host_is_not_found(
    private: PictureSettings, context: PictureContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = error_of("http://nowhere.example/a.png", private, context)
    assert error.code is ErrorCode.INPUT_NOT_FOUND
