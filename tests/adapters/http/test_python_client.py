"""`Upscaler(url=…)` and `AsyncUpscaler(url=…)`: the calls, pictures and errors of the clients that
start a daemon."""

from __future__ import annotations

import asyncio
import errno
import io
import math
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

import upscaled
from echo_serve import EchoServe, echo_serve

SELF_SIGNED = Path(__file__).parents[2] / "support" / "self_signed.pem"


@pytest.fixture(scope="module")
def server() -> Iterator[EchoServe]:
    with echo_serve() as running:
        yield running


@pytest.fixture
def up(server: EchoServe) -> Iterator[upscaled.Upscaler]:
    with upscaled.Upscaler(url=server.url) as client:
        yield client


def test_a_file_is_uploaded_and_the_result_is_written(
    up: upscaled.Upscaler, server: EchoServe, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(b"picture")
    stages: list[str] = []
    result = up.upscale(
        tmp_path / "in.png",
        tmp_path / "out.webp",
        factor=2,
        crop="center",
        on_progress=lambda progress: stages.append(progress.stage),
    )
    assert (tmp_path / "out.webp").read_bytes() == b"picture"
    assert result.output_path == str(tmp_path / "out.webp")
    assert (result.output_size.width, result.processing_time) == (7, 0.5)
    assert stages == ["upscale"]
    sent = {"upscale_factor": "2", "crop": "center", "output_format": "webp"}
    assert server.fields[-1] == sent
    assert {path.name for path in tmp_path.iterdir()} == {"in.png", "out.webp"}


def test_a_file_without_an_output_is_written_beside_the_input(
    up: upscaled.Upscaler, tmp_path: Path
) -> None:
    (tmp_path / "in.jpg").write_bytes(b"picture")
    for name in ("in_esrgan_2x.png", "in_esrgan_2x-2.png"):
        assert up.upscale(tmp_path / "in.jpg").output_path == str(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"picture"


def test_an_output_gets_a_free_name_on_a_disk_without_links(
    up: upscaled.Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as on FAT

    monkeypatch.setattr(os, "link", refused)
    (tmp_path / "in.jpg").write_bytes(b"picture")
    names = ("in_esrgan_2x.png", "in_esrgan_2x-2.png")
    for name in names:
        assert up.upscale(tmp_path / "in.jpg").output_path == str(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jpg", *names}
    assert all((tmp_path / name).read_bytes() == b"picture" for name in names)


def test_a_file_that_grows_while_it_is_uploaded_is_reported_and_sent_once(
    up: upscaled.Upscaler, tmp_path: Path
) -> None:
    # It has the size 0, and some text.
    with pytest.raises(upscaled.InputError, match="changed while it was sent") as caught:
        up.upscale("/proc/version", tmp_path / "out.png")
    assert caught.value.code == "input_unreadable"


def test_an_output_for_which_the_disk_has_no_room_is_reported(
    server: EchoServe, tmp_path: Path
) -> None:
    # Less than a buffer, so that the file's close writes it.
    (tmp_path / "in.png").write_bytes(b"x" * 6000)
    script = (
        "import resource, sys, upscaled\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "with upscaled.Upscaler(url=sys.argv[1]) as up:\n"
        "    error = up.submit('in.png', 'out.png').exception(60)\n"
        "print(type(error).__name__, error.code, error)\n"
    )
    done = subprocess.run(
        # Without bytecode, which Python would write in part and then fail to import.
        [sys.executable, "-B", "-c", script, server.url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    said = "OutputError output_unwritable the output cannot be written: [Errno 27] File too large\n"
    assert (done.stdout, done.stderr) == (said, "")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_pictures_in_memory_go_over_http_and_come_back(up: upscaled.Upscaler) -> None:
    assert up.upscale(b"picture").image == b"picture"
    assert up.upscale(io.BytesIO(b"picture"), bytes).image == b"picture"
    picture = Image.new("RGBA", (7, 5), (1, 2, 3, 4))
    back = up.upscale(picture).image
    assert (back.mode, back.size, back.getpixel((6, 4))) == ("RGBA", (7, 5), (1, 2, 3, 4))


def test_a_call_is_a_future_that_yields_its_progress(up: upscaled.Upscaler) -> None:
    call = up.submit(b"picture")
    assert {progress.progress for progress in call} <= {50}
    assert call.result().image == b"picture"


def test_a_cancelled_call_ends_with_its_job(server: EchoServe) -> None:
    server.held.clear()
    with upscaled.Upscaler(url=server.url) as up:
        call = up.submit(b"picture", method="flux", prompt="wait")
        assert server.held.wait(60)
        assert call.cancel()
        with pytest.raises(upscaled.JobCancelledError):
            call.result(60)


def test_an_error_in_the_context_cancels_what_is_open(server: EchoServe) -> None:
    server.held.clear()
    up = upscaled.Upscaler(url=server.url)
    call = up.submit(b"picture", method="flux", prompt="wait")
    assert server.held.wait(60)
    up.__exit__(KeyError, KeyError(), None)
    with pytest.raises(upscaled.ShuttingDownError):
        call.result(0)
    with pytest.raises(upscaled.ShuttingDownError):
        up.upscale(b"picture")


def test_in_asyncio_a_cancelled_task_cancels_its_job(server: EchoServe) -> None:
    async def main() -> None:
        async with upscaled.AsyncUpscaler(url=server.url) as up:
            assert (await up.start()).version == "9.9.9"
            assert (await up.upscale(b"picture")).image == b"picture"
            server.held.clear()
            task = asyncio.ensure_future(up.upscale(b"picture", method="flux", prompt="wait"))
            await asyncio.to_thread(server.held.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert list(server.cancelled.values())[-1].is_set()

    asyncio.run(main())


def test_health_is_the_servers_and_what_only_a_daemon_has_is_refused(up: upscaled.Upscaler) -> None:
    health = up.health()
    assert (health.status, health.queue_size) == ("ok", 2)
    assert up.start().methods == ["esrgan"]
    assert up.pid is None
    for ask in (up.trim, up.replay):
        with pytest.raises(upscaled.InvalidJobError, match="a client that starts a daemon"):
            ask()


@pytest.mark.parametrize(
    "options",
    [
        {"url": "upscaler:8080"},
        {"url": "ftp://upscaler"},
        {"url": "http://name:password@upscaler"},
        {"url": "http://upscaler", "command": ["upscaled", "run"]},
        {"key": "a key"},
    ],
)
def test_options_that_do_not_go_together_are_refused_at_once(options: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=r"url|own"):
        upscaled.Upscaler(**options)  # type: ignore[arg-type]


def test_a_server_that_is_not_there_is_a_daemon_that_is_gone() -> None:
    # Port 9 of loopback: nothing listens there.
    with upscaled.Upscaler(url="http://127.0.0.1:9", attempts=0) as up:
        with pytest.raises(upscaled.DaemonGoneError, match="cannot be reached"):
            up.upscale(b"picture")
        with pytest.raises(upscaled.DaemonGoneError):
            up.start()


def test_a_certificate_that_is_not_trusted_ends_a_call_at_the_first_try() -> None:
    with echo_serve() as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(SELF_SIGNED)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http://", "https://")
        with (
            upscaled.Upscaler(url=url, restart_delay_s=0) as up,
            pytest.raises(upscaled.DaemonGoneError, match="self-signed certificate"),
        ):
            up.start()
        assert server.connections == 1


def test_a_wrong_key_is_reported_when_the_client_starts(server: EchoServe) -> None:
    with upscaled.Upscaler(url=server.url, key="wrong") as up:
        with pytest.raises(upscaled.NotAllowedError, match="not known") as caught:
            up.start()
        assert caught.value.code == "unauthorized"


def test_a_forked_child_does_not_wait_for_its_parents_calls(server: EchoServe) -> None:
    server.held.clear()
    with upscaled.Upscaler(url=server.url) as up:
        call = up.submit(b"picture", method="flux", prompt="wait")
        assert server.held.wait(60)
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            try:
                error = type(call.exception(60)).__name__
                image = up.upscale(b"picture").image
                os.write(writer, f"{error} {image!r}".encode())
            finally:
                os._exit(0)
        os.close(writer)
        assert os.read(reader, 100) == b"ForkedError b'picture'"
        os.close(reader)
        os.waitpid(child, 0)
        assert call.cancel()
        assert isinstance(call.exception(60), upscaled.JobCancelledError)


def test_a_close_timeout_without_a_limit_is_waited_for(server: EchoServe) -> None:
    up = upscaled.Upscaler(url=server.url, close_timeout_s=math.inf)
    server.held.clear()
    call = up.submit(b"picture", bytes, method="flux", prompt="held")
    assert server.held.wait(60)
    with ThreadPoolExecutor(1) as threads:
        closed = threads.submit(up.close)
        call.cancel()
        assert closed.result(60) is None
    with pytest.raises(upscaled.JobCancelledError):
        call.result(60)
