"""A request's body: what is read of it, what is refused, and that nothing is left of the latter."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.types import Message

from upscaled_http.bodymemory import BodyMemory
from upscaled_http.incoming import clean_name, name_in
from upscaled_http.problems import ProblemError
from upscaled_http.uploads import Body, BodyReader

FORM = "multipart/form-data; boundary=b0undary"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4


def part(name: str, data: bytes, file_name: str | None = None) -> bytes:
    told = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name else "")
    return b"--b0undary\r\nContent-Disposition: %s\r\n\r\n%s\r\n" % (told.encode(), data)


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--b0undary--\r\n"


def read(
    folder: Path,
    body: bytes | Iterable[bytes],
    content_type: str = FORM,
    max_files: int = 1,
    *,
    breaks_off: bool = False,
    headers: Iterable[tuple[str, str]] = (),
) -> Body:
    chunks = [body] if isinstance(body, bytes) else list(body)
    messages: list[Message] = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ]
    messages.append(
        {"type": "http.disconnect"}
        if breaks_off
        else {"type": "http.request", "body": b"", "more_body": False}
    )

    async def receive() -> Message:
        return messages.pop(0)

    pairs = [("content-type", content_type), *headers]
    scope = {
        "type": "http",
        "method": "POST",
        "headers": [(name.encode(), value.encode()) for name, value in pairs],
    }
    reader = BodyReader(folder, BodyMemory(100 * 1024 * 1024))
    return asyncio.run(reader.read(Request(scope, receive), max_files))


def refusal(folder: Path, *args: object, **options: object) -> ProblemError:
    with pytest.raises(ProblemError) as caught:
        read(folder, *args, **options)  # type: ignore[arg-type]
    assert list(folder.iterdir()) == [], "a file was left"
    return caught.value


def test_a_file_goes_to_disk_and_fields_stay_text(tmp_path: Path) -> None:
    body = form(part("scale", b"2"), part("image", PNG, "a.png"), part("label", "ä".encode()))
    with read(tmp_path, body) as found:
        assert found.fields == {"scale": "2", "label": "ä"}
        (upload,) = found.uploads
        assert upload.path.read_bytes() == PNG
        assert (upload.name, upload.size_bytes, upload.sha256) == ("a.png", len(PNG), None)
        assert upload.path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_has_another_form_is_a_file(tmp_path: Path) -> None:
    told = part("image", PNG, "a.png").replace(b'filename="a.png"', b"filename*=UTF-8''%C3%A4.png")
    with read(tmp_path, form(told)) as found:
        assert [(one.name, one.size_bytes) for one in found.uploads] == [(None, len(PNG))]


def test_a_form_is_read_the_same_however_it_is_cut(tmp_path: Path) -> None:
    body = form(part("scale", b"2"), part("file", b"\r\n--b0undar\r\n", "a.png"))
    with read(tmp_path, (body[at : at + 1] for at in range(len(body)))) as found:
        assert found.fields == {"scale": "2"}
        assert found.uploads[0].path.read_bytes() == b"\r\n--b0undar\r\n"


def test_a_hash_is_made_if_the_request_has_a_key(tmp_path: Path) -> None:
    headers = [("idempotency-key", "k")]
    with read(tmp_path, form(part("image", b"x", "a.png")), headers=headers) as found:
        assert found.uploads[0].sha256 is not None


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ([part("scale", b"2"), part("scale", b"3")], "scale"),
        ([part("image", PNG, "a.png"), part("image", PNG, "b.png")], "image"),
        ([part("picture", PNG, "a.png")], "picture"),
        ([part("image", b"photo.png")], "image"),
        ([part("prompt", b"x" * 70_000)], "prompt"),
        ([part("label", b"\xff")], "label"),
        ([part(f"field{n}", b"") for n in range(65)], ""),
    ],
)
def test_a_form_that_is_wrong_is_refused_with_the_field_named(
    tmp_path: Path, parts: list[bytes], field: str
) -> None:
    error = refusal(tmp_path, form(part("file", PNG, "first.png"), *parts), FORM, 2)
    assert error.status == 400
    assert [fault.field for fault in error.problem.errors] == [field]


@pytest.mark.parametrize(
    "headers", [b"X-A: b\r\n" * 100, b"X-A: %b\r\n" % (b"b" * 100_000)], ids=["many", "long"]
)
def test_the_headers_of_a_part_are_limited(tmp_path: Path, headers: bytes) -> None:
    body = form(part("image", PNG, "a.png"), part("scale", b"2").replace(b"Con", headers + b"Con"))
    assert refusal(tmp_path, body, FORM, 2).status == 400


@pytest.mark.parametrize(
    "body",
    [
        form(part("image", PNG, "a.png"))[:-20],
        form(part("image", PNG, "a.png")).removesuffix(b"--\r\n"),
        b"--other\r\n\r\n",
        b"",
        b"--b0undary\r\n\r\nno header\r\n--b0undary--\r\n",
    ],
)
def test_a_form_that_is_cut_off_or_none_leaves_nothing(tmp_path: Path, body: bytes) -> None:
    assert refusal(tmp_path, body).status == 400


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    body = form(part("image", PNG, "a.png"))[:-30]
    assert refusal(tmp_path, body, breaks_off=True).status == 400


def test_a_disk_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(ProblemError) as caught:
        read(missing, form(part("image", PNG, "a.png")))
    assert caught.value.status == 507
    assert "cannot be written (No such file or directory)" in caught.value.detail
    assert str(tmp_path) not in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        base64.b64encode(PNG).decode(),
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        base64.b64encode(PNG * 100).decode(),
    ],
)
def test_a_picture_in_json_is_written_to_a_file(tmp_path: Path, text: str) -> None:
    body = json.dumps({"image_base64": text, "scale": 2, "name": "x/y.png"}).encode()
    with read(tmp_path, body, "application/json; charset=utf-8") as found:
        assert (found.fields, found.is_text) == ({"scale": 2}, False)
        assert found.uploads[0].path.read_bytes().startswith(PNG)
        assert found.uploads[0].name == "y.png"


def test_a_large_json_leaves_its_picture_alone_on_disk(tmp_path: Path) -> None:
    picture = PNG * 20_000
    body = json.dumps({"image_base64": base64.b64encode(picture).decode()}).encode()
    with read(tmp_path, [body[:100], body[100:90_000], body[90_000:]], "application/json") as found:
        (upload,) = found.uploads
        assert upload.path.read_bytes() == picture
        assert list(tmp_path.iterdir()) == [upload.path]
    assert list(tmp_path.iterdir()) == []
    refusal(tmp_path, body[:-10], "application/json")
    refusal(tmp_path, body[:-10], "application/json", breaks_off=True)


def test_clients_that_stall_within_large_json_delay_no_other(tmp_path: Path) -> None:
    body = json.dumps({"image_base64": base64.b64encode(PNG * 20_000).decode()}).encode()
    reader = BodyReader(tmp_path, BodyMemory(len(body)))

    def request(*messages: Message) -> Request:
        rest = list(messages)

        async def receive() -> Message:
            return rest.pop(0) if rest else await asyncio.Future()

        told = {"content-type": "application/json", "content-length": str(len(body))}
        headers = [(name.encode(), value.encode()) for name, value in told.items()]
        return Request({"type": "http", "method": "POST", "headers": headers}, receive)

    async def run() -> None:
        half: Message = {"type": "http.request", "body": body[:-100], "more_body": True}
        stalled = [asyncio.create_task(reader.read(request(half), 1)) for _ in range(10)]
        await asyncio.sleep(0)
        whole: Message = {"type": "http.request", "body": body, "more_body": False}
        async with asyncio.timeout(20):
            (await reader.read(request(whole), 1)).__exit__()
        for one in stalled:
            one.cancel()
        await asyncio.wait(stalled)
        assert list(tmp_path.iterdir()) == []

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"scale": NaN}', "invalid_json"),
        (b"\xff\xfe{}", "invalid_json"),
        (b'{"a":' * 100_000, "invalid_json"),
        (b'{"scale": 2, "scale": 3}', "invalid_request"),
        (b'{"image_base64": "not base64!"}', "invalid_request"),
        (b'{"image_base64": ""}', "invalid_request"),
        (b'{"image_base64": 7}', "invalid_request"),
        (b'{"image_base64": "data:text/html;base64,aGk="}', "invalid_request"),
    ],
)
def test_json_that_is_wrong_is_refused(tmp_path: Path, body: bytes, code: str) -> None:
    error = refusal(tmp_path, body, "application/json")
    assert (error.status, error.code) == (400, code)


def test_a_form_without_files_may_be_urlencoded(tmp_path: Path) -> None:
    kind = "application/x-www-form-urlencoded"
    assert read(tmp_path, b"scale=2&label=a+b", kind).fields == {"scale": "2", "label": "a b"}
    assert refusal(tmp_path, b"scale=2&scale=3", kind).status == 400


@pytest.mark.parametrize("content_type", ["", "text/plain", "image/png"])
def test_other_bodies_are_refused(tmp_path: Path, content_type: str) -> None:
    assert refusal(tmp_path, PNG, content_type).status == 415


@pytest.mark.parametrize(
    ("told", "name"),
    [
        ("a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\a b.png", "a b.png"),
        ("a\0b\r\nSet-Cookie: x.png", "a_b_Set-Cookie_ x.png"),
        ("Übung.png", "Übung.png"),
        ("U\u0308bung.png", "Übung.png"),
        ("हिन्दी ภาพที่ 👩‍🎨❤️.png", "हिन्दी ภาพที่ 👩‍🎨❤️.png"),
        ("line\u202egnp.exe\u2028\ud83d.png", "line_gnp.exe_.png"),
        ("..", None),
        ("", None),
        ("x" * 300 + ".png", "x" * 200),
        ('a"b<script>.png', "a_b_script_.png"),
    ],
)
def test_a_file_name_is_a_name_to_show_and_never_a_path(told: str, name: str | None) -> None:
    assert clean_name(told) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.com/photos/sea%20view.jpg?size=9#top", "sea view.jpg"),
        ("https://example.com/a%2F..%2Fb.png", "b.png"),
        ("https://example.com", None),
        ("https://example.com/photos/", None),
        ("https://[::1/a.png", "a.png"),
    ],
)
def test_the_name_of_a_picture_with_an_address_is_the_end_of_its_path(
    url: str, name: str | None
) -> None:
    assert name_in(url) == name
