"""Inputs and outputs in an object storage: a real S3 server, and one that fails."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nearest_engine
from answering import answering
from object_store import BUCKET, OTHER_BUCKET, ObjectStore, running_object_store
from recording import RecordingContext
from upscaled_imaging import presigned, storage
from upscaled_imaging.destinations import Written
from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import Access, Limits, PictureSettings
from upscaled_imaging.write import open_sink
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size
from waiting import TIMEOUT_S

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

ALLOWED = PictureSettings(access=Access(url_prefixes=(f"s3://{BUCKET}", "s3://broken/")))
PIXELS = np.random.default_rng(4).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def png() -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "PNG")
    return file.getvalue()


def copied(
    context: RecordingContext | None = None, settings: PictureSettings = ALLOWED, **fields: Any
) -> Written:
    """The output of a job that keeps its pixels."""
    context = context or RecordingContext()
    config = EsrganConfig(**fields)
    with open_source(config, settings, context) as source:
        size = Size(width=source.width, height=source.height)
        plan = plan_size(config, size, factor=1, default_dpi=150)
        output = plan_output(config, settings, source, plan, method="esrgan", context=context)
        with open_sink(output, size, source.bands, source.bits) as sink:
            sink.write(source.rows(source.height))
            return sink.commit()


def refused(settings: PictureSettings = ALLOWED, **fields: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        copied(settings=settings, **fields)
    assert "\n" not in caught.value.message
    return caught.value


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "in.png"
    path.write_bytes(png())
    return str(path)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as store:
        yield store


@pytest.fixture
def store(server: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """obstore's own view of the bucket."""
    from obstore.store import from_url

    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return from_url(server.url)


def test_a_picture_is_read_from_a_bucket_and_written_to_it(store: Any) -> None:
    obstore.put(store, "in/a photo.png", png())
    url = f"s3://{BUCKET}/out/picture.webp"
    written = copied(image_url=f"s3://{BUCKET}/in/a photo.png", output_url=url, quality=100)
    data = bytes(obstore.get(store, "out/picture.webp").bytes())
    assert written == Written(output_url=url, output_bytes=len(data))
    with Image.open(io.BytesIO(data)) as found:
        assert found.format == "WEBP"
        assert np.array_equal(np.asarray(found), PIXELS)
    assert obstore.get(store, "out/picture.webp").attributes["Content-Type"] == "image/webp"


def test_a_large_picture_is_one_object_after_several_parts(store: Any, tmp_path: Path) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (1500, 1400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "in.tif")
    written = copied(image_path=str(tmp_path / "in.tif"), output_url=f"s3://{BUCKET}/large.png")
    assert written.output_bytes is not None
    assert written.output_bytes > 5 * 1024 * 1024  # the size of a part
    with Image.open(io.BytesIO(bytes(obstore.get(store, "large.png").bytes()))) as found:
        assert np.array_equal(np.asarray(found), noise)


def test_a_daemon_reads_and_writes_objects_and_shows_no_secret(
    server: ObjectStore, store: Any, tmp_path: Path
) -> None:
    obstore.put(store, "daemon.png", png())
    urls = {"image_url": f"{server.url}/daemon.png", "output_url": f"{server.url}/daemon.webp"}
    job = {"job_id": "1", "method": "esrgan", "config": urls}
    ended = subprocess.run(
        [sys.executable, "-m", "upscaled_supervisor", "--allow-url", server.url],
        input=json.dumps(job).encode() + b"\n",
        env=nearest_engine.environment(**server.environment),
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    results = [json.loads(line) for line in ended.stdout.splitlines() if b'"result"' in line]
    size = store.head("daemon.webp")["size"]
    assert [(one["output_url"], one["output_bytes"]) for one in results] == [
        (urls["output_url"], size)
    ]
    assert server.secret.encode() not in ended.stdout + ended.stderr


@pytest.mark.usefixtures("store")
def test_a_missing_object_and_a_missing_bucket_have_their_codes(picture: str) -> None:
    assert refused(image_url=f"s3://{BUCKET}/none.png").code is ErrorCode.INPUT_NOT_FOUND
    settings = PictureSettings(access=Access(url_prefixes=("s3://no-such-bucket/",)))
    error = refused(settings, image_path=picture, output_url="s3://no-such-bucket/a.png")
    assert error.code in (ErrorCode.OUTPUT_UNWRITABLE, ErrorCode.PATH_NOT_ALLOWED)


@pytest.mark.usefixtures("store")
def test_an_object_past_the_limit_is_refused_before_it_is_read(store: Any) -> None:
    obstore.put(store, "large.bin", bytes(2000))
    small = PictureSettings(
        access=ALLOWED.access, limits=Limits(max_input_megapixels=0.0001, beside_pixels_bytes=1000)
    )
    error = refused(small, image_url=f"s3://{BUCKET}/large.bin")
    assert error.code is ErrorCode.INPUT_TOO_LARGE


def test_another_bucket_and_a_wrong_secret_are_refused_without_a_secret(
    server: ObjectStore, store: Any, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = PictureSettings(access=Access(url_prefixes=(f"s3://{OTHER_BUCKET}/", server.url)))
    error = refused(both, image_path=picture, output_url=f"s3://{OTHER_BUCKET}/a.png")
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    obstore.put(store, "secret.png", png())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    error = refused(both, image_url=f"{server.url}/secret.png")
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "wrong-secret" not in error.message
    assert "X-Amz" not in error.message


@pytest.mark.parametrize(
    "url",
    [
        "s3://others/a.png",
        "s3://pictures-of-others/a.png",
        "s3://pictures/folder/a.png",
        "s3://pictures/mine/../a.png",
        "s3://pictures/mine/%2e%2e/a.png",
        "s3://pictures/mine/..%2Fa.png",
        "gs://pictures/mine/a.png",
        "https://example.com/a.png?X-Amz-Signature=secret",
    ],
)
def test_a_url_that_the_operator_does_not_allow_is_refused(picture: str, url: str) -> None:
    settings = PictureSettings(access=Access(url_prefixes=("s3://pictures/mine/",)))
    error = refused(settings, image_path=picture, output_url=url)
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "secret" not in error.message
    if not url.startswith("https"):
        assert refused(settings, image_url=url).code is ErrorCode.PATH_NOT_ALLOWED
    nothing = PictureSettings()
    assert refused(nothing, image_path=picture, output_url=url).code is ErrorCode.PATH_NOT_ALLOWED


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://pictures/a.png", ErrorCode.PATH_NOT_ALLOWED),
        ("s3://[pictures/a.png", ErrorCode.INVALID_JOB),
        ("s3://pictures/", ErrorCode.INVALID_JOB),
        ("s3://pictures/a.png?versionId=1", ErrorCode.INVALID_JOB),
        ("s3://pictures/a.png#b", ErrorCode.INVALID_JOB),
    ],
)
def test_an_output_url_of_another_form_is_refused(picture: str, url: str, code: ErrorCode) -> None:
    assert refused(image_path=picture, output_url=url, output_format="png").code is code


def test_the_format_is_that_of_the_urls_suffix(picture: str) -> None:
    error = refused(image_path=picture, output_url=f"s3://{BUCKET}/a.psd")
    assert error.code is ErrorCode.UNSUPPORTED_FORMAT


class Faulty(BaseHTTPRequestHandler):
    """Fails as often as its server's `faults` say, then serves and takes objects."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True  # the client has closed the connection

    def do_GET(self) -> None:
        faults: list[Any] = self.server.faults  # type: ignore[attr-defined]
        fault = faults.pop(0) if faults else None
        data = png()
        start = 0
        if self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if isinstance(fault, int):
            self.answer(fault, self.repeated())
        elif fault == "reset":
            self.close_connection = True
        else:
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("ETag", '"1"')
            self.send_header("Last-Modified", "Thu, 26 Nov 2026 10:00:00 GMT")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start:500] if fault == "cut" else data[start:])
            self.close_connection = fault == "cut"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        faults: list[Any] = self.server.faults  # type: ignore[attr-defined]
        fault = faults.pop(0) if faults else None
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if isinstance(fault, Event):
            fault.wait(30)
        if isinstance(fault, int):
            self.answer(fault, self.repeated())
            return
        if fault == "reset":
            self.close_connection = True
            return
        self.server.taken[self.path] = body, self.headers["Content-Type"]  # type: ignore[attr-defined]
        self.answer(200, b"")

    def do_POST(self) -> None:
        """The start of an upload in parts, and its end, which was done before."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path.endswith("?uploads="):
            upload = b"<UploadId>1</UploadId>"
            self.answer(
                200, b"<InitiateMultipartUploadResult>%b</InitiateMultipartUploadResult>" % upload
            )
        else:
            self.answer(404, b"<Error><Code>NoSuchUpload</Code></Error>")

    def do_DELETE(self) -> None:
        self.answer(204, b"")

    def repeated(self) -> bytes:
        """What a server answers that shows what was asked, and how it was signed."""
        query = self.path.partition("?")[2]
        signed = f"<Signed>X-Amz-Signature=secret {query}</Signed>"
        return f"<Error>{signed}<Code>SlowDown</Code></Error>".encode()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Faulty)
    server.faults, server.taken, server.asked = [], {}, []  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setattr(presigned, "_FIRST_PAUSE_S", 0.001)
    with answering(server):
        yield server


@pytest.mark.parametrize("faults", [[503, 500], ["reset", 503], ["cut"]])
def test_a_storage_that_fails_now_and_then_is_asked_again(
    faulty: Any, tmp_path: Path, faults: list[Any]
) -> None:
    faulty.faults += faults
    output = str(tmp_path / "out.png")
    assert copied(image_url="s3://broken/in.png", output_path=output).output_path == output
    with Image.open(output) as found:
        assert np.array_equal(np.asarray(found), PIXELS)
    assert faulty.faults == []


def test_a_storage_that_keeps_failing_is_unavailable(
    faulty: Any, picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(storage.RETRIES, "max_retries", 1)
    faulty.faults += [503] * 20
    errors = [
        refused(image_url="s3://broken/in.png"),
        refused(image_path=picture, output_url="s3://broken/out.png"),
    ]
    for error in errors:
        assert (error.code, error.retryable) == (ErrorCode.STORAGE_UNAVAILABLE, True)
        assert "secret" not in error.message
    assert faulty.taken == {}


def test_an_upload_whose_end_was_answered_to_nobody_is_unavailable(
    faulty: Any, picture: str
) -> None:
    error = refused(image_path=picture, output_url="s3://broken/out.png")
    assert (error.code, error.retryable) == (ErrorCode.STORAGE_UNAVAILABLE, True)
    assert "NoSuchUpload" in error.message


def test_a_folder_is_taken_as_it_is_written_as_a_name_is(faulty: Any, tmp_path: Path) -> None:
    copied(image_url="s3://broken/a%20b/ü/c%20d.png", output_path=str(tmp_path / "out.png"))
    assert faulty.asked == ["/broken/a%2520b/%C3%BC/c%2520d.png"]


def test_a_folder_without_a_name_is_refused_because_another_object_would_be_read(
    picture: str,
) -> None:
    for url in ("s3://broken/a//b.png", "s3://broken//b.png"):
        for error in (refused(image_url=url), refused(image_path=picture, output_url=url)):
            assert error.code is ErrorCode.INVALID_JOB
            assert "a folder without a name" in error.message


@pytest.mark.parametrize("status", [503, 409, 403, "reset"])
def test_a_signature_of_azure_is_in_no_error(
    faulty: Any, picture: str, monkeypatch: pytest.MonkeyPatch, status: int | str
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{faulty.server_address[1]}")
    monkeypatch.setenv("AZURE_ALLOW_HTTP", "true")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2024-11-04&sig=c2VjcmV0%3D")
    monkeypatch.setitem(storage.RETRIES, "max_retries", 1)
    settings = PictureSettings(access=Access(url_prefixes=("az://pictures/",)))
    faulty.faults += [status] * 20
    errors = [
        refused(settings, image_url="az://pictures/in.png"),
        refused(settings, image_path=picture, output_url="az://pictures/out.png"),
    ]
    assert faulty.asked
    assert all("sig=c2VjcmV0" in path for path in faulty.asked)
    code = ErrorCode.PATH_NOT_ALLOWED if status == 403 else ErrorCode.STORAGE_UNAVAILABLE
    for error in errors:
        assert error.code is code
        # Neither as it was sent nor as the storage repeats it.
        assert "c2VjcmV0" not in error.message
        assert ("SlowDown" in error.message) is (status in {503, 409})


def test_a_setting_of_the_machine_that_cannot_be_used_is_told_without_its_value(
    picture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "c2VjcmV0")
    settings = PictureSettings(access=Access(url_prefixes=("az://pictures/",)))
    error = refused(settings, image_path=picture, output_url="az://pictures/out.png")
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "Missing component in SAS query pair" in error.message
    assert "c2VjcmV0" not in error.message


class CancelledAtUpload(RecordingContext):
    """A job that is cancelled once its upload has begun."""

    def check_cancelled(self) -> None:
        if "upload" in self.stages:
            raise JobError(ErrorCode.CANCELLED, "the job was cancelled")


@pytest.mark.parametrize("scheme", ["s3", "http"])
def test_a_cancelled_job_does_not_wait_for_its_upload(
    faulty: Any, picture: str, scheme: str
) -> None:
    held = Event()
    faulty.faults.append(held)
    host = f"127.0.0.1:{faulty.server_address[1]}"
    url = "s3://broken/a.png" if scheme == "s3" else f"http://{host}/a.png"
    settings = PictureSettings(access=Access(url_prefixes=("s3://broken", f"http://{host}")))
    with pytest.raises(JobError) as caught:
        copied(CancelledAtUpload(), settings, image_path=picture, output_url=url)
    assert caught.value.code is ErrorCode.CANCELLED
    held.set()


@pytest.fixture
def base(faulty: Any) -> str:
    return f"http://127.0.0.1:{faulty.server_address[1]}/bucket"


@pytest.mark.parametrize("faults", [[], [503], [500, 429]])
def test_a_presigned_url_takes_the_output(
    faulty: Any, base: str, picture: str, faults: list[int]
) -> None:
    faulty.faults += faults
    settings = PictureSettings(access=Access(url_prefixes=(base,)))
    written = copied(
        settings=settings, image_path=picture, output_url=f"{base}/a.png?X-Amz-Signature=secret"
    )
    data, media_type = faulty.taken["/bucket/a.png?X-Amz-Signature=secret"]
    assert written == Written(output_url=f"{base}/a.png", output_bytes=len(data))
    assert media_type == "image/png"
    with Image.open(io.BytesIO(data)) as found:
        assert np.array_equal(np.asarray(found), PIXELS)


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (403, ErrorCode.PATH_NOT_ALLOWED),
        (404, ErrorCode.OUTPUT_UNWRITABLE),
        (302, ErrorCode.OUTPUT_UNWRITABLE),
        (503, ErrorCode.STORAGE_UNAVAILABLE),
    ],
)
def test_a_presigned_url_that_is_refused_is_one_error_without_its_query(
    faulty: Any, base: str, picture: str, fault: int, code: ErrorCode
) -> None:
    faulty.faults += [fault] * 3
    settings = PictureSettings(access=Access(url_prefixes=(base,)))
    url = f"{base}/a.png?X-Amz-Signature=secret"
    error = refused(settings, image_path=picture, output_url=url)
    assert error.code is code
    assert "secret" not in error.message
    assert faulty.taken == {}


@pytest.mark.usefixtures("faulty")
def test_the_input_is_never_replaced_at_its_url() -> None:
    url = "s3://broken/same.png"
    assert refused(image_url=url, output_url=url).code is ErrorCode.INVALID_JOB


@pytest.mark.usefixtures("faulty")
def test_a_machine_without_credentials_is_told_to_set_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without variables a client asks the cloud's own service, which no other machine has."""

    def fail(*_: object) -> None:
        raise storage.ObjectStorageError("PUT http://169.254.169.254/latest/api/token: 403")

    monkeypatch.setattr("obstore.get", fail)
    error = refused(image_url="s3://broken/a.png")
    assert error.code is ErrorCode.PATH_NOT_ALLOWED
    assert "set the variables of its cloud, such as AWS_ACCESS_KEY_ID" in error.message
