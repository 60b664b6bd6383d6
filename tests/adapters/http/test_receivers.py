"""One POST to a receiver that runs here: what reaches it, and what it may not do to us."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from answering import answering
from upscaled_protocol import urlpolicy
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy
from upscaled_webhooks import receivers
from upscaled_webhooks.receivers import DeliveryError, Poster
from upscaled_webhooks.signatures import Signer
from upscaled_webhooks.webhookurl import MAX_URL_LENGTH, host_of
from waiting import TIMEOUT_S

SECRET = "whsec_" + "c2VjcmV0" * 4


class Handler(BaseHTTPRequestHandler):
    seen: list[tuple[str, dict[str, str], bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        type(self).seen.append((self.path, headers, body))
        name, _, argument = self.path.lstrip("/").partition("?")
        getattr(self, f"send_{name}")(argument)

    def send_status(self, status: str) -> None:
        self.send_response(int(status))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_redirect(self, location: str) -> None:
        self.send_response(307)
        self.send_header("Location", location)
        self.end_headers()

    def send_endless(self, _: str) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(bytes(65536))

    def send_silent(self, _: str) -> None:
        self.rfile.read(1)  # until the client goes away

    def send_trickle(self, _: str) -> None:
        pace = threading.Event()
        while not pace.wait(0.02):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def send_headers(self, _: str) -> None:
        self.send_response(200)
        self.send_header("X-Long", "x" * 1_000_000)
        self.end_headers()

    def send_nonsense(self, _: str) -> None:
        self.wfile.write(b"220 mail.example ESMTP\r\n")

    def send_hangup(self, _: str) -> None:
        self.close_connection = True

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client has left


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    Handler.seen = []
    with answering(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as running:
        yield running


@pytest.fixture
def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


def listed(base: str) -> UrlPolicy:
    return UrlPolicy(allow_hosts=frozenset([host_of(base)]))


def post(
    url: str, allowed: UrlPolicy, body: bytes = b"{}", headers: dict[str, str] | None = None
) -> int:
    async def send() -> int:
        sent = Poster(allowed).post(url, headers or {"content-type": "application/json"}, body)
        return await asyncio.wait_for(sent, TIMEOUT_S)

    return asyncio.run(send())


def failure_of(url: str, allowed: UrlPolicy) -> str:
    with pytest.raises(DeliveryError) as caught:
        post(url, allowed)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_receiver_gets_a_body_that_its_secret_verifies(base: str) -> None:
    body = '{"type":"job.completed","data":{"name":"Grüße.png"}}'.encode()
    now = time.time()
    sent = Signer(SECRET).headers("one", now, body)
    assert post(base + "/status?204", listed(base), body, sent) == 204
    ((path, headers, received),) = Handler.seen
    assert path == "/status?204"
    assert headers["host"] == base.removeprefix("http://")
    assert headers["content-type"] == "application/json"
    assert headers["webhook-timestamp"] == str(int(now))
    assert received == body
    assert Webhook(SECRET).verify(received, headers)["type"] == "job.completed"
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(received.replace(b"completed", b"failed"), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "b3RoZXIh" * 4).verify(received, headers)


@pytest.mark.parametrize("status", [200, 202, 404, 410, 500])
def test_the_answers_status_is_reported(base: str, status: int) -> None:
    assert post(f"{base}/status?{status}", listed(base)) == status


def test_a_redirect_is_not_followed(base: str) -> None:
    assert post(f"{base}/redirect?{base}/status?200", listed(base)) == 307
    assert len(Handler.seen) == 1


def test_the_answers_body_is_not_read(base: str) -> None:
    assert post(base + "/endless", listed(base)) == 200


@pytest.mark.parametrize("path", ["silent", "trickle"])
def test_a_receiver_that_takes_too_long_is_given_up(
    base: str, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(receivers, "TIME_LIMIT_S", 0.3)
    assert failure_of(f"{base}/{path}", listed(base)) == "took longer than 0.3 s"


@pytest.mark.parametrize("path", ["headers", "nonsense", "hangup"])
def test_what_is_no_http_answer_is_one_plain_failure(base: str, path: str) -> None:
    assert failure_of(f"{base}/{path}", listed(base)) == "no HTTP answer"


def test_a_receiver_that_is_gone_is_one_plain_failure() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nothing listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/hook?token=hush"
        message = failure_of(url, listed(url))
    assert message.startswith("no connection")
    assert "hush" not in message


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]"]
)
def test_private_addresses_are_never_connected_to(server: ThreadingHTTPServer, host: str) -> None:
    message = failure_of(f"http://{host}:{server.server_port}/status?200", UrlPolicy())
    assert "not on the public internet" in message
    assert Handler.seen == []


def test_a_list_of_hosts_holds_for_host_and_port(server: ThreadingHTTPServer, base: str) -> None:
    other = base.replace("127.0.0.1", "localhost")
    message = failure_of(other + "/status?200", listed(base))
    assert message == f"localhost:{server.server_port} is not one of the allowed hosts"
    assert Handler.seen == []


def test_the_connection_goes_to_the_address_that_was_checked(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urlpolicy, "is_public", lambda address: str(address) == "127.0.0.1")
    answers = iter(["127.0.0.1"])  # a second look-up would find nothing more
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host == "rebinding.example":
            host = next(answers)
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"http://rebinding.example:{server.server_port}/status?200"
    assert post(url, UrlPolicy()) == 200
    assert Handler.seen[0][1]["host"] == f"rebinding.example:{server.server_port}"


def test_a_host_is_reached_at_any_of_its_addresses(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [(2, 1, 6, "", (address, 80)) for address in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
    url = f"http://two.example:{server.server_port}/status?200"
    assert post(url, UrlPolicy(allow_private=True)) == 200


def test_a_look_up_that_hangs_holds_neither_the_loop_nor_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, over = threading.Event(), threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        asked.set()
        over.wait(TIMEOUT_S)
        return []

    async def leave() -> None:
        sent = asyncio.create_task(Poster(UrlPolicy()).post("http://a.example/", {}, b""))
        while not asked.is_set():
            await asyncio.sleep(0)
        sent.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sent

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    asyncio.run(leave())
    assert [thread for thread in threading.enumerate() if thread.name == "webhook look-up"]
    over.set()


def test_an_unknown_host_is_one_plain_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert failure_of("http://nowhere.example/", UrlPolicy()) == "there is no host nowhere.example"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_https_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer
) -> None:
    both, public = tmp_path / "both.pem", tmp_path / "public.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
         "subjectAltName=DNS:localhost", "-keyout", both, "-out", public],
        check=True, capture_output=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    both.write_bytes(both.read_bytes() + public.read_bytes())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(both)
    server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    allowed = UrlPolicy(allow_private=True)
    url = f"https://localhost:{server.server_port}/status?200"
    assert "CERTIFICATE_VERIFY_FAILED" in failure_of(url, allowed)
    monkeypatch.setenv("SSL_CERT_FILE", str(public))
    assert post(url, allowed) == 200
    assert "CERTIFICATE_VERIFY_FAILED" in failure_of(url.replace("localhost", "127.0.0.1"), allowed)
    assert len(Handler.seen) == 1


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("http://a.example", "a.example", 80),
        ("https://A.example/hook?token=x#part", "a.example", 443),
        ("HTTPS://a.example:8443/", "a.example", 8443),
        ("http://[::1]:9000/", "::1", 9000),
    ],
)
def test_a_url_leads_to_a_host_and_a_port(url: str, host: str, port: int) -> None:
    assert host_of(url) == HostPort(host, port)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://a.example/", "must begin with http:// or https://"),
        ("a.example/hook", "must begin with http:// or https://"),
        ("//a.example/", "must begin with http:// or https://"),
        ("http://", "not a valid URL"),
        ("http:///hook", "not a valid URL"),
        ("http://[::1", "not a valid URL"),
        ("http://a.example:0/", "not a valid URL"),
        ("http://a.example:99999/", "not a valid URL"),
        ("http://" + "a" * 254 + "/", "not a valid URL"),
        ("http://me:secret@a.example/", "must not hold a user name or a password"),
        ("http://a.example/\r\nHost: b", "no spaces"),
        ("http://a.example/a b", "no spaces"),
        ("http://a.example/ü", "no spaces"),
        ("http://a.example/" + "a" * MAX_URL_LENGTH, f"longer than {MAX_URL_LENGTH} characters"),
    ],
)
def test_what_is_no_url_of_a_receiver_is_refused_and_not_repeated(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match="webhook") as caught:
        host_of(url)
    assert reason in str(caught.value)
    assert "secret" not in str(caught.value)
