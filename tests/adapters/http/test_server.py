"""The server on a real socket: what a connection may do, and how it all ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop

from scripted_service import ScriptedService
from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_http.connection import MAX_HEADER_BYTES
from upscaled_http.notify import Notifier
from upscaled_http.server import Server, open_sockets, url_of

# Far beyond what anything takes here.
TIMEOUT_S = 30


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        """The next one: status, headers, body from JSON."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, json.loads(body)

    async def code(self) -> tuple[int, str]:
        status, headers, body = await self.answer()
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        return status, body["code"]

    async def end(self) -> bytes:
        """What still comes until the server closes."""
        return await self.reader.read()

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


class Running:
    """A server in this process and this event loop."""

    def __init__(self, server: Server, service: ScriptedService, opened: socket.socket) -> None:
        self.server = server
        self.service = service
        self.clients: list[Client] = []
        self._address = opened.getsockname()[:2]

    async def client(self) -> Client:
        """A connection, which is closed at the end of the test."""
        self.clients.append(Client(*await asyncio.open_connection(*self._address)))
        return self.clients[-1]


def with_server(
    test: Callable[[Running], Awaitable[None]],
    environ: dict[str, str] | None = None,
    service: ScriptedService | None = None,
    **sections: Any,
) -> None:
    """Run the test beside a server, which is stopped by a signal at the end."""

    async def run() -> None:
        settings = Settings.model_validate(sections)
        given = service or ScriptedService()
        sockets = open_sockets("127.0.0.1", 0)
        is_open = asyncio.Event()
        server = Server(
            create_app(settings, given), settings.server, Notifier(environ or {}), is_open.set
        )
        running = Running(server, given, sockets[0])
        serving = asyncio.create_task(server.serve(sockets))
        async with asyncio.timeout(TIMEOUT_S):
            await is_open.wait()
            try:
                await test(running)
            finally:
                for client in running.clients:
                    await client.close()
                if not server.should_exit:
                    os.kill(os.getpid(), signal.SIGTERM)
                await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


LIVE = b"GET /api/health/live HTTP/1.1\r\nHost: localhost\r\n"


# --- Upgrade ------------------------------------------------------------------------------------

# As Java's HttpClient and `curl --http2` send it.
H2C = (
    b"Host: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\nContent-Type: application/json\r\n"
)


@pytest.mark.parametrize(
    "rest",
    [b"Content-Length: 2\r\n\r\n[]", b"Transfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "in pieces"])
def test_the_body_of_a_request_that_asks_for_http_2_is_read(rest: bytes, is_split: bool) -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        request = b"POST /api/cleanup HTTP/1.1\r\n" + H2C + rest
        for _ in range(2):
            for begin in range(0, len(request), 7 if is_split else len(request)):
                await client.send(request[begin : begin + (7 if is_split else len(request))])
            status, headers, body = await client.answer()
            assert (status, body["errors"][0]["field"]) == (400, "body")
            assert "dictionary" in body["detail"]  # the list was read
            assert "connection" not in headers
        await client.send(LIVE + b"\r\n")
        assert (await client.answer())[0] == 200

    with_server(test)


def test_requests_behind_one_that_asks_for_another_protocol_are_answered() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        asking = LIVE + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        last = LIVE + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n"
        await client.send(asking * 3 + LIVE + b"\r\n" + last)
        for _ in range(5):
            assert (await client.answer())[0] == 200
        assert await client.end() == b""

    with_server(test)


def test_the_server_is_no_proxy() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n")
        assert await client.code() == (400, "invalid_request")

    with_server(test)


# --- headers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        LIVE + b"X-Long: " + b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n",
        LIVE + b"X-A: b\r\n" * (MAX_HEADER_BYTES // 4) + b"\r\n",
        b"GET /" + b"x" * (MAX_HEADER_BYTES + 1) + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["one", "many", "path"],
)
def test_headers_past_the_limit_are_refused(begin: bytes) -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(begin)
        assert await client.code() == (431, "headers_too_large")
        assert await client.end() == b""

    with_server(test)


def test_a_header_without_an_end_is_refused() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(LIVE + b"X-Endless: ")
        answer = asyncio.create_task(client.code())
        while not answer.done():
            with suppress(OSError):  # it has closed
                await client.send(b"x" * 1024)
            await asyncio.sleep(0)
        assert await answer == (431, "headers_too_large")

    with_server(test)


def test_a_long_header_in_two_pieces_is_refused_once(caplog: pytest.LogCaptureFixture) -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(LIVE + b"X-Long: ")
        connections: set[Any] = running.server.server_state.connections
        while not any(one.is_in_request for one in connections):
            await asyncio.sleep(0)
        await client.send(b"x" * (MAX_HEADER_BYTES + 1) + b"\r\n\r\n")
        assert await client.code() == (431, "headers_too_large")
        assert await client.end() == b""

    with_server(test)
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_headers_below_the_limit_are_taken_in_any_pieces() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        request = LIVE + b"X-Long: " + b"x" * (MAX_HEADER_BYTES // 2) + b"\r\n\r\n"
        for begin in range(0, len(request), 1000):
            await client.send(request[begin : begin + 1000])
        assert (await client.answer())[0] == 200
        await client.send(request)
        assert (await client.answer())[0] == 200

    with_server(test)


def test_a_request_that_does_not_come_to_its_headers_end_is_closed() -> None:
    begins = [b"", b"\r\n", b"GET /api", LIVE]
    are_closed = asyncio.Event()

    class Slow(ScriptedService):
        async def health(self) -> Any:
            await are_closed.wait()
            return await super().health()

    async def alone(running: Running, begin: bytes) -> None:
        client = await running.client()
        await client.send(begin)
        assert await client.end() == b""

    async def after_another(running: Running, begin: bytes) -> None:
        client = await running.client()
        await client.send(LIVE + b"\r\n")
        assert (await client.answer())[0] == 200
        await client.send(begin)
        assert await client.end() == b""

    async def behind_another(running: Running, begin: bytes) -> None:
        client = await running.client()
        await client.send(LIVE + b"\r\n" + begin)
        assert (await client.answer())[0] == 200
        assert await client.end() == b""

    async def test(running: Running) -> None:
        waiting = await running.client()
        await waiting.send(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /api")
        await asyncio.gather(
            *(alone(running, begin) for begin in begins),
            *(after_another(running, begin) for begin in begins if begin),
            *(behind_another(running, begin) for begin in begins if begin.strip()),
        )
        # A request that has come keeps its connection until it is answered.
        are_closed.set()
        assert (await waiting.answer())[0] == 200
        assert await waiting.end() == b""

    with_server(test, service=Slow(), server={"header_timeout_s": 1})


def test_what_is_no_http_gets_a_problem() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(b"hello\r\n\r\n")
        assert await client.code() == (400, "invalid_request")
        assert await client.end() == b""

    with_server(test)


# --- refusals -----------------------------------------------------------------------------------

SUBMIT = b"POST /api/upscale HTTP/1.1\r\nHost: localhost\r\n"


def test_a_refused_upload_reads_its_answer_though_it_still_sends() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        size = 8 * 1024 * 1024
        await client.send(SUBMIT + b"Content-Length: %d\r\n\r\n" % size)
        sending = asyncio.create_task(client.send(bytes(size)))
        assert await client.code() == (413, "input_too_large")
        assert await client.end() == b""
        await asyncio.gather(sending, return_exceptions=True)

    with_server(test, limits={"max_request_mb": 1})


def test_a_client_that_asks_before_it_sends_gets_a_refusal() -> None:
    async def test(running: Running) -> None:
        running.service.is_queue_full = True
        client = await running.client()
        await client.send(SUBMIT + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert await client.code() == (429, "queue_full")

    with_server(test)


def test_a_connection_past_the_limit_is_refused_for_now() -> None:
    async def test(running: Running) -> None:
        first, second = await running.client(), await running.client()
        await first.send(LIVE + b"\r\n")
        assert (await first.answer())[0] == 200
        await second.send(LIVE + b"\r\n")
        assert await second.code() == (503, "too_many_connections")
        assert await second.end() == b""

    with_server(test, server={"max_connections": 1})


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_terminal", [False, True])
def test_sighup_replaces_the_workers_but_ends_a_server_whose_terminal_was_closed(
    monkeypatch: pytest.MonkeyPatch, has_terminal: bool
) -> None:
    monkeypatch.setattr("os.isatty", lambda _fd: has_terminal)

    async def test(running: Running) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        while not (running.server.should_exit or "reload" in running.service.calls):
            await asyncio.sleep(0)
        assert running.server.should_exit == has_terminal

    with_server(test)


def test_a_server_without_jobs_for_the_time_that_was_set_exits() -> None:
    async def test(running: Running) -> None:
        client = await running.client()
        await client.send(LIVE + b"\r\n")
        await client.answer()
        assert not running.server.should_exit
        running.service.idle_s = 600
        await client.end()

    with_server(test, server={"idle_exit_s": 600})


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_service_while_requests_are_answered(
    stop: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled_http.server.SAME_SIGNAL_S", TIMEOUT_S)
    is_draining, may_end = asyncio.Event(), asyncio.Event()

    class Draining(ScriptedService):
        async def drain(self) -> None:
            self.is_draining = True
            is_draining.set()
            await may_end.wait()
            await super().drain()

    async def test(running: Running) -> None:
        os.kill(os.getpid(), stop)
        await is_draining.wait()
        os.kill(os.getpid(), stop)  # to the process group: not a second request
        client = await running.client()
        await client.send(LIVE + b"\r\n")
        assert (await client.answer())[0] == 200
        await client.send(SUBMIT + b"Content-Length: 5\r\n\r\nhello")
        assert (await client.answer())[2]["code"] == "shutting_down"
        assert running.service.calls == ["start"]
        may_end.set()
        await client.end()

    service = Draining()
    with_server(test, service=service)
    assert service.calls == ["start", "drain", "stop"]


def test_a_service_that_cannot_start_says_why() -> None:
    class Broken(ScriptedService):
        async def start(self) -> None:
            raise RuntimeError("the folder is in use")

    settings = Settings()
    server = Server(
        create_app(settings, Broken()), settings.server, Notifier({}), lambda: pytest.fail("opened")
    )
    (opened,) = open_sockets("127.0.0.1", 0)
    with opened, pytest.raises(RuntimeError, match="the folder is in use"):
        server.run([opened])


def test_systemd_hears_of_the_start_the_watchdog_and_the_end(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(path)
    listener.setblocking(False)
    environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000", "WATCHDOG_PID": str(os.getpid())}
    states: list[str] = []

    async def test(_running: Running) -> None:
        loop = asyncio.get_running_loop()
        while "WATCHDOG=1" not in states:
            states.append((await loop.sock_recv(listener, 1000)).decode())

    with_server(test, environ=environ)
    while "STOPPING" not in states[-1]:
        states.append(listener.recv(1000).decode())
    listener.close()
    assert states[0].startswith("READY=1\nSTATUS=")
    assert not environ, "the daemon would inherit them"


def test_an_abstract_socket_and_another_process_watchdog_are_known() -> None:
    name = f"upscaled-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        notifier = Notifier(
            {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "2000", "WATCHDOG_PID": "1"}
        )
        notifier.feed_watchdog(0)
        notifier.ready("Serving")
        assert listener.recv(1000) == b"READY=1\nSTATUS=Serving"


# --- sockets ------------------------------------------------------------------------------------


def test_a_port_that_is_taken_is_an_error() -> None:
    (first,) = open_sockets("127.0.0.1", 0)
    with first, pytest.raises(OSError, match="in use"):
        open_sockets("127.0.0.1", first.getsockname()[1])


def test_every_address_of_a_name_has_the_same_port() -> None:
    sockets = open_sockets("localhost", 0)
    ports = {opened.getsockname()[1] for opened in sockets}
    for opened in sockets:
        opened.close()
    assert len(ports) == 1


def test_the_page_of_a_server_on_all_addresses_is_on_loopback() -> None:
    (opened,) = open_sockets("0.0.0.0", 0)
    with opened:
        assert url_of(opened) == f"http://127.0.0.1:{opened.getsockname()[1]}"
