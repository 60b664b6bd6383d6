"""Bad input, and too much of anything: `upscaled serve` refuses it, and keeps no file of it."""

from __future__ import annotations

import re
import socket
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from serve_process import TIMEOUT_S, ServeProcess, code_of, picture, serve_process
from waiting import wait_until


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("data")
    with serve_process(folder, UPSCALED_LIMITS_MAX_REQUEST_MB="1") as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server with short time limits."""
    with serve_process(
        tmp_path_factory.mktemp("data"),
        UPSCALED_SERVER_HEADER_TIMEOUT_S="0.5",
        UPSCALED_SERVER_UPLOAD_IDLE_S="0.5",
        UPSCALED_SERVER_UPLOAD_TIMEOUT_S="2",
    ) as running:
        yield running


def png_of(width: int, height: int) -> bytes:
    """The beginning of a PNG of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0" * 100


def send(serve: ServeProcess, data: bytes = b"", fields: dict[str, str] | None = None) -> Any:
    return serve.client.post(
        "/api/upscale/esrgan", files={"image": ("a.png", data or picture())}, data=fields or {}
    )


@pytest.mark.parametrize("path", ["/api/upscale", "/api/upscale/esrgan", "/api/batches"])
def test_an_option_in_the_address_is_refused_because_it_would_have_no_effect(
    serve: ServeProcess, path: str
) -> None:
    file = {"image": ("a.png", picture())}
    answer = serve.client.post(path, params={"upscale_factor": 2}, files=file)
    assert code_of(answer) == (400, "invalid_request")
    assert answer.json()["errors"][0]["field"] == "upscale_factor"
    assert "fields of the form" in answer.json()["detail"]


def test_a_field_that_the_daemon_refuses_is_named_as_it_is(serve: ServeProcess) -> None:
    answer = send(serve, fields={"target_width": "90000"})
    problem = answer.json()
    assert answer.status_code == 400
    assert problem["detail"].startswith("target_width 90000: ")
    assert problem["errors"] == [{"field": "target_width", "detail": problem["detail"]}]


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("application/json", b'{"a":[' + b"[]," * 20_000 + b"0]}", "more than 10000 values"),
        ("application/x-www-form-urlencoded", b"a=1&" * 20_000 + b"b=1", "more than 64 fields"),
    ],
)
def test_a_body_of_many_values_is_refused_unread(
    serve: ServeProcess, kind: str, body: bytes, sentence: str
) -> None:
    answer = serve.client.post("/api/upscale", content=body, headers={"content-type": kind})
    assert answer.status_code == 400
    assert sentence in answer.json()["detail"]


# --- pictures -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"just a text", (415, "unsupported_format")),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", (415, "unsupported_format")),
        (b"<!doctype html><script>1</script>", (415, "unsupported_format")),
        (b"PK\3\4" + b"\0" * 100, (415, "unsupported_format")),
        (b"\x89PNG\r\n\x1a\n", (422, "input_unreadable")),
        (png_of(60000, 60000), (413, "input_too_large")),
        (b"x" * 1_200_000, (413, "input_too_large")),
    ],
    ids=["text", "svg", "html", "zip", "torn", "huge picture", "huge file"],
)
def test_a_file_that_is_no_readable_picture_is_refused(
    serve: ServeProcess, data: bytes, expected: tuple[int, str]
) -> None:
    assert code_of(send(serve, data)) == expected
    assert serve.files() == set()


def test_an_empty_file_is_no_picture(serve: ServeProcess) -> None:
    answer = serve.client.post("/api/upscale/esrgan", files={"image": ("a.png", b"")})
    assert code_of(answer) == (415, "unsupported_format")


def test_a_torn_picture_is_unreadable_to_a_request_that_waits_for_it(serve: ServeProcess) -> None:
    whole = picture(200, 200)
    answer = serve.client.post("/api/upscale/esrgan?wait=60", files={"image": whole[:80]})
    assert code_of(answer) == (422, "input_unreadable")
    assert serve.files() == set()


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "/etc/passwd",
        "x" * 300 + ".png",
        "a\r\nSet-Cookie: x.png",
        "..",
        "C:\\a",
    ],
)
def test_a_file_name_is_a_name_to_show_and_never_a_path(serve: ServeProcess, name: str) -> None:
    disposition = name.replace("\r", "%0D").replace("\n", "%0A").replace("\\", "\\\\")
    body = (
        b'--x\r\nContent-Disposition: form-data; name=image; filename="%b"\r\n\r\n%b\r\n--x--\r\n'
        % (disposition.encode(), picture())
    )
    answer = serve.client.post(
        "/api/upscale/esrgan?wait=60",
        content=body,
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert not re.search(r"[/\\\r\n]|\.\.", job.get("name") or "")
    assert len(job.get("name") or "") <= 200
    serve.client.delete(job["status_url"])
    assert serve.files() == set()


# --- fields -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"upscale_facter": "2"}, "upscale_facter"),
        ({"scale": "two"}, "scale"),
        ({"scale": "1000"}, "scale"),
        ({"scale": "2", "upscale_factor": "3"}, "scale"),
        ({"image_path": "/etc/passwd"}, "image_path"),
        ({"output_path": "/tmp/x.png"}, "output_path"),
        ({"model": "../x"}, "model"),
        ({"model": "/etc/passwd"}, "model"),
        ({"model": "no-such-model"}, "model"),
        ({"image_url": "http://example.com/a.png"}, "image_url"),
        ({"timeout_s": "-1"}, "timeout_s"),
        ({"label": "x" * 101}, "label"),
        ({"format": "svg"}, "format"),
    ],
)
def test_a_wrong_field_is_named(serve: ServeProcess, fields: dict[str, str], named: str) -> None:
    answer = send(serve, fields=fields)
    assert answer.status_code == 400, answer.text
    assert named in [error["field"] for error in answer.json()["errors"]]
    assert serve.files() == set()


def form(*parts: tuple[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart body of these parts, each its headers and its content."""
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (head.encode(), content)
        for head, content in parts
    )
    return body + b"--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


IMAGE = ('name="image"; filename="a.png"', picture())


@pytest.mark.parametrize(
    "parts",
    [
        [IMAGE, ('name="scale"', b"2"), ('name="scale"', b"3")],
        [IMAGE, IMAGE],
        [IMAGE, ('name="file"; filename="b.png"', picture())],
        [IMAGE, *[(f'name="f{number}"', b"1") for number in range(70)]],
        [('name="other"; filename="a.png"', picture())],
        [('name="scale"', b"2")],
        [IMAGE, ('name="label"', b"\xff\xfe")],
        [IMAGE, ('name="label"', b"x" * 100_000)],
    ],
    ids=[
        *("twice", "two pictures", "two names", "many fields", "another name", "no picture"),
        *("no UTF-8", "long field"),
    ],
)
def test_a_form_with_too_many_or_too_few_fields_is_refused(
    serve: ServeProcess, parts: list[tuple[str, bytes]]
) -> None:
    body, headers = form(*parts)
    answer = serve.client.post("/api/upscale/esrgan", content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert serve.files() == set()


@pytest.mark.parametrize(
    ("content_type", "body", "expected"),
    [
        ("application/json", b"{", (400, "invalid_json")),
        ("application/json", b"[1]", (400, "invalid_json")),
        ("application/json", b'{"a":1,"a":2}', (400, "invalid_request")),
        ("application/json", b'{"image_base64":"?"}', (400, "invalid_request")),
        ("application/json", b'{"scale":NaN}', (400, "invalid_json")),
        ("application/json", b"[" * 100_000, (400, "invalid_json")),
        ("application/json", b'{"image_url":"file:///etc/passwd"}', (400, "invalid_job")),
        ("text/plain", b"x", (415, "unsupported_media_type")),
        ("multipart/form-data", b"x", (400, "invalid_request")),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Dis", (400, "invalid_request")),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    serve: ServeProcess, content_type: str, body: bytes, expected: tuple[int, str]
) -> None:
    answer = serve.client.post(
        "/api/upscale/esrgan", content=body, headers={"Content-Type": content_type}
    )
    assert code_of(answer) == expected
    assert serve.files() == set()


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/jobs/%2e%2e%2fsidecar.db", 404),
        ("GET", "/api/results/..%2f..%2fsidecar.db", 404),
        ("GET", "/api/results/%2e%2e", 404),
        ("GET", "/api/nothing", 404),
        ("POST", "/api/upscale/nothing", 404),
        ("GET", "/api/jobs?limit=0", 400),
        ("GET", "/api/jobs?status=lost", 400),
        ("GET", "/api/jobs/x?wait=long", 404),
        ("POST", "/api/upscale/fake?wait=-1", 400),
    ],
)
def test_an_address_that_is_wrong_gets_a_problem(
    serve: ServeProcess, method: str, path: str, expected: int
) -> None:
    answer = serve.client.request(method, path, json={} if method == "POST" else None)
    assert code_of(answer)[0] == expected


# --- connections --------------------------------------------------------------------------------


def rest_of(connection: socket.socket) -> bytes:
    """All bytes until the server closes the connection."""
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


HEAD = b"POST /api/upscale/esrgan HTTP/1.1\r\nHost: localhost\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=x\r\n"
BEGIN = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'


def test_half_a_header_closes_the_connection(impatient: ServeProcess) -> None:
    with impatient.connect() as half:
        half.sendall(b"GET /api/health HTTP/1.1\r\nHos")
        rest_of(half)


def test_a_megabyte_of_headers_is_refused(serve: ServeProcess) -> None:
    with serve.connect() as large:
        large.sendall(b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 1_000_000)
        assert rest_of(large).startswith(b"HTTP/1.1 431 ")


def test_a_stuck_upload_is_answered_and_leaves_nothing(impatient: ServeProcess) -> None:
    with impatient.connect() as stuck:
        stuck.sendall(HEAD + FORM + b"Content-Length: 900000\r\n\r\n" + BEGIN + picture())
        answer = rest_of(stuck)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"upload_timeout"' in answer
    assert impatient.files() == set()


def test_a_slow_upload_has_an_end_and_leaves_nothing(impatient: ServeProcess) -> None:
    """Each byte comes in time, but the whole does not."""
    with impatient.connect() as slow:
        slow.settimeout(0.1)
        slow.sendall(HEAD + FORM + b"Content-Length: 900000\r\n\r\n" + BEGIN)
        answer = b""
        for _ in range(int(TIMEOUT_S * 10)):
            try:
                slow.sendall(b"x")
                answer += slow.recv(65536)
                break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert impatient.files() == set()


def test_an_upload_that_is_broken_off_leaves_nothing(serve: ServeProcess) -> None:
    with serve.connect() as broken:
        broken.sendall(HEAD + FORM + b"Content-Length: 900000\r\n\r\n" + BEGIN + b"x" * 100_000)
        wait_until(lambda: len(serve.files()) == 1, "the upload's file")
    wait_until(lambda: serve.files() == set(), "the end of the upload's file")


@pytest.mark.parametrize("header", [b"Content-Length: 9000000\r\n", b"Expect: 100-continue\r\n"])
def test_a_body_past_the_limit_is_refused_before_it_is_sent(
    serve: ServeProcess, header: bytes
) -> None:
    with serve.connect() as large:
        length = b"" if b"Length" in header else b"Content-Length: 9000000\r\n"
        large.sendall(HEAD + FORM + header + length + b"\r\n")
        assert rest_of(large).startswith(b"HTTP/1.1 413 ")


def test_a_body_past_the_limit_that_did_not_tell_its_length_is_refused(serve: ServeProcess) -> None:
    def parts() -> Iterator[bytes]:
        yield BEGIN
        for _ in range(30):
            yield b"x" * 100_000

    answer = serve.client.post(
        "/api/upscale/esrgan",
        content=parts(),
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert code_of(answer) == (413, "input_too_large")
    assert serve.files() == set()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Host": "evil.example.com"}, (403, "host_not_allowed")),
        ({"Origin": "https://evil.example.com"}, (403, "origin_not_allowed")),
        ({"Origin": "null"}, (403, "origin_not_allowed")),
    ],
)
def test_a_page_of_another_origin_reaches_nothing_without_keys(
    serve: ServeProcess, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = serve.client.post("/api/upscale/fake", json={}, headers=headers)
    assert code_of(answer) == expected
    own = {"Origin": serve.url}
    job = serve.accepted(serve.client.post("/api/upscale/fake", json={}, headers=own))
    refused = serve.client.delete(job["status_url"], headers={"Origin": "https://evil.example.com"})
    assert refused.status_code == 403
    assert serve.client.delete(job["status_url"], headers=own).status_code == 204
