"""Pictures from URLs: what is fetched, and what ends a transfer."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from http.server import ThreadingHTTPServer

import numpy as np
import pytest

from full_disk import files_up_to
from picture_server import PIXELS, Handler, fetch_error, png
from recording import RecordingContext
from upscaled_imaging import fetch as fetching
from upscaled_imaging import webrequest
from upscaled_imaging.context import PictureContext
from upscaled_imaging.fetch import fetch
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Limits, PictureSettings
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from waiting import TIMEOUT_S


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
def test_a_transfer_that_fails_is_one_plain_error(
    base: str, private: PictureSettings, context: PictureContext, path: str, code: ErrorCode
) -> None:
    small = replace(private, limits=Limits(max_input_megapixels=0.1, beside_pixels_bytes=100_000))
    assert fetch_error(base + path, small, context).code is code


def test_no_error_repeats_a_long_host(private: PictureSettings, context: PictureContext) -> None:
    error = fetch_error("http://" + "a." * 100_000 + "com/x.png", private, context)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert len(error.message) < 200


def test_an_error_has_the_beginning_of_a_servers_own_text(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    error = fetch_error(base + "/wordy", private, context)
    assert error.message.startswith("image_url answers 500 sorry")
    assert error.message.isprintable()
    assert len(error.message) < 200


def test_an_endless_redirect_ends(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    error = fetch_error(base + "/again", private, context)
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
    error = fetch_error(base + path, private, context)
    assert error.code is ErrorCode.INPUT_UNREADABLE
    assert "longer than 0.3 s" in error.message


class CancelledAt(RecordingContext):
    """A job that is cancelled as soon as a condition holds."""

    def __init__(self, condition: Callable[[], object]) -> None:
        super().__init__()
        self._condition = condition

    def check_cancelled(self) -> None:
        if self._condition():
            raise JobError(ErrorCode.CANCELLED, "the host cancelled the job")


@pytest.mark.parametrize("path", ["/endless", "/slow", "/trickle", "/silent", "/headers"])
def test_a_cancelled_job_stops_a_transfer_in_each_of_its_phases(
    base: str, private: PictureSettings, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(webrequest, "_SILENCE_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", TIMEOUT_S)
    context = CancelledAt(lambda: Handler.seen)
    assert fetch_error(base + path, private, context).code is ErrorCode.CANCELLED


def test_a_cancelled_job_stops_connecting(
    private: PictureSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webrequest, "_SILENCE_S", TIMEOUT_S)
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", TIMEOUT_S)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as held:
        address = listener.getsockname()
        for _ in range(4):  # no connection is accepted: the queue is full, and the next one waits
            stream = held.enter_context(socket.socket())
            stream.setblocking(False)
            stream.connect_ex(address)
        url = f"http://127.0.0.1:{address[1]}/"
        assert fetch_error(url, private, CancelledAt(lambda: True)).code is ErrorCode.CANCELLED


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


def test_a_full_disk_is_not_reported_as_an_error_of_the_server(
    base: str, private: PictureSettings, context: PictureContext
) -> None:
    config = EsrganConfig(image_url=base + "/picture")
    with (
        files_up_to(100),
        pytest.raises(JobError) as caught,
        open_source(config, private, context),
    ):
        pass
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


def test_a_server_that_is_gone_is_one_plain_error(
    private: PictureSettings, context: PictureContext
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # without listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert fetch_error(url, private, context).code is ErrorCode.INPUT_UNREADABLE


def test_an_unknown_host_is_not_found(
    private: PictureSettings, context: PictureContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    error = fetch_error("http://nowhere.example/a.png", private, context)
    assert error.code is ErrorCode.INPUT_NOT_FOUND
