"""Results: whole and in part, as base64, as a small copy, many as a zip; and their removal."""

from __future__ import annotations

import base64
import errno
import io
import os
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from PIL import Image

from running_serve import RunningServe, running_serve
from upscaled_http.records import Record
from upscaled_http.registry import Registry
from waiting import wait_until

SIZE = (600, 400)


class Served(NamedTuple):
    serve: RunningServe
    picture: str  # the address of a PNG
    data: bytes


def completed(serve: RunningServe, data: bytes, suffix: str, **fields: Any) -> str:
    """Put a completed job there, as the daemon would have left it; its id."""
    storage = serve.service.storage
    job_id = str(uuid.uuid4())
    storage.result(f"{job_id}.{suffix}").write_bytes(data)
    storage.note_result(storage.result(f"{job_id}.{suffix}"))
    record = Record(
        job_id=job_id,
        owner="",
        method="esrgan",
        created_at=time.time(),
        line=None,
        status="completed",
        finished_at=time.time(),
        file_name=f"{job_id}.{suffix}",
        file_size_bytes=len(data),
        **fields,
    )
    registry = Registry(storage.registry)
    registry.add(record)
    registry.close()
    return job_id


# More than the buffers of a connection hold: a client that stops reading stops the server.
LARGE_BYTES = 100_000_000


def completed_large(serve: RunningServe, **fields: Any) -> str:
    """The same with a large file, which takes no room."""
    job_id = completed(serve, b"", "png", **fields)
    os.truncate(serve.service.storage.result(f"{job_id}.png"), LARGE_BYTES)
    return job_id


def files_open_in(folder: Path) -> list[str]:
    """The files of a folder that this process has open."""
    paths = (file.path for file in psutil.Process().open_files())
    return [path for path in paths if Path(path).is_relative_to(folder)]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    picture = io.BytesIO()
    Image.effect_noise(SIZE, 80).convert("RGB").save(picture, "PNG")
    storage = {"download_grace_s": 0}
    with running_serve(tmp_path_factory.mktemp("data"), storage=storage) as serve:
        data = picture.getvalue()
        assert len(data) > 256 * 1024, "it is to be sent in several chunks"
        job_id = completed(serve, data, "png", name='har"bour ü.jpg')
        yield Served(serve, f"/api/results/{job_id}", data)


def test_a_result_is_sent_whole_and_safely(served: Served) -> None:
    for address in (served.picture, f"{served.picture}.png"):
        answer = served.serve.client.get(address)
        assert (answer.status_code, answer.content) == (200, served.data)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"].startswith("sandbox")
        told = answer.headers["content-disposition"]
        assert told.endswith("filename*=UTF-8''har%22bour%20%C3%BC_esrgan.png")
        assert 'filename="har_bour __esrgan.png"' in told


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ("bytes=0-9", slice(0, 10)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-5", slice(-5, None)),
        ("bytes=5-99999999", slice(5, None)),
    ],
)
def test_a_part_is_sent_if_it_is_asked_for(served: Served, asked: str, part: slice) -> None:
    answer = served.serve.client.get(served.picture, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, served.data[part])
    begin = range(len(served.data))[part][0]
    assert answer.headers["content-range"].startswith(f"bytes {begin}-")


NO_RANGES = ["bytes=9-5", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "x", f"bytes=0-{'9' * 5000}"]


@pytest.mark.parametrize("asked", NO_RANGES, ids=lambda asked: asked[:14])
def test_a_range_that_is_not_understood_gets_the_whole(served: Served, asked: str) -> None:
    answer = served.serve.client.get(served.picture, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, served.data)


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(served: Served, asked: str) -> None:
    answer = served.serve.client.get(served.picture, headers={"Range": asked})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(served.data)}"


def test_a_part_of_another_version_is_sent_as_the_whole(served: Served) -> None:
    client = served.serve.client
    etag = client.head(served.picture).headers["etag"]
    for condition, status in ((etag, 206), ('"other"', 200)):
        headers = {"Range": "bytes=0-9", "If-Range": condition}
        assert client.get(served.picture, headers=headers).status_code == status


def test_a_result_that_the_client_has_is_not_sent_again(served: Served) -> None:
    client = served.serve.client
    etag = client.head(served.picture).headers["etag"]
    answer = client.get(served.picture, headers={"If-None-Match": f'"x", W/{etag}'})
    assert (answer.status_code, answer.content) == (304, b"")
    assert client.get(served.picture, headers={"If-None-Match": '"x"'}).status_code == 200


def test_a_result_may_come_in_base64(served: Served) -> None:
    body = served.serve.client.get(served.picture, params={"encoding": "base64"}).json()
    assert body["media_type"] == "image/png"
    assert base64.b64decode(body["image_base64"], validate=True) == served.data


def test_a_small_copy_is_made_once_and_goes_with_the_result(served: Served) -> None:
    serve = served.serve
    job_id = completed(serve, served.data, "png")
    for _ in range(2):
        answer = serve.client.get(f"/api/results/{job_id}", params={"preview": 256})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/webp")
        assert Image.open(io.BytesIO(answer.content)).size == (256, 171)
    copies = list(serve.service.storage.results.glob(f"{job_id}.preview*"))
    assert [copy.name for copy in copies] == [f"{job_id}.preview-256.webp"]
    assert serve.client.delete(f"/api/jobs/{job_id}").status_code == 204
    assert list(serve.service.storage.results.glob(f"{job_id}*")) == []


def test_a_preview_of_any_size_or_of_no_picture_is_refused(served: Served) -> None:
    client = served.serve.client
    assert client.get(served.picture, params={"preview": 257}).status_code == 400
    text = completed(served.serve, b"no picture", "png")
    answer = client.get(f"/api/results/{text}", params={"preview": 256})
    assert (answer.status_code, answer.json()["code"]) == (422, "input_unreadable")
    assert not list(served.serve.service.storage.results.glob(f"{text}.preview*"))


def test_several_results_come_as_one_zip_with_names_of_their_own(served: Served) -> None:
    serve = served.serve
    ids = [completed(serve, f"{n}".encode(), "png", name="a.png") for n in range(3)]
    answer = serve.client.get("/api/results.zip", params={"job_id": ids})
    assert answer.headers["content-length"] == str(len(answer.content))
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        found = {info.filename: archive.read(info) for info in archive.infolist()}
    names = ["a_esrgan.png", "a_esrgan-2.png", "a_esrgan-3.png"]
    assert found == dict(zip(names, [b"0", b"1", b"2"], strict=True))


def test_a_zip_of_nothing_of_a_strangers_or_of_a_job_that_runs_is_refused(served: Served) -> None:
    serve = served.serve
    running = serve.submit(hang=True)["job_id"]
    for params, status in (
        ({}, 400),
        ({"job_id": "nope"}, 404),
        ({"job_id": running}, 409),
        ({"job_id": ["a"] * 101}, 400),
        ({"batch_id": "nope"}, 404),
    ):
        assert serve.client.get("/api/results.zip", params=params).status_code == status
    serve.client.delete(f"/api/jobs/{running}")


def test_a_job_without_a_result_says_why(served: Served) -> None:
    client = served.serve.client
    failed = served.serve.ended(served.serve.submit(error_code="stalled")["job_id"])["job_id"]
    gone = completed(served.serve, b"x", "png")
    served.serve.service.storage.result(f"{gone}.png").unlink()
    for job_id, status, code in (
        (failed, 404, "not_found"),
        (gone, 410, "result_gone"),
        ("../../etc/passwd", 404, "not_found"),
        ("%2e%2e%2fsidecar.db", 404, "not_found"),
    ):
        answer = client.get(f"/api/results/{job_id}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_cleanup_removes_results_and_keeps_records(served: Served, tmp_path: Path) -> None:
    with running_serve(tmp_path) as serve:
        old = completed(serve, b"12345", "png")
        assert serve.client.post("/api/cleanup", json={"older_than_s": 3600}).json() == {
            "removed_files": 0,
            "freed_bytes": 0,
        }
        for wrong in (False, "0", -1, None):
            answer = serve.client.post("/api/cleanup", json={"older_than_s": wrong})
            assert answer.status_code == 400, wrong
        answer = serve.client.post("/api/cleanup", json={"older_than_s": 0})
        assert answer.json() == {"removed_files": 1, "freed_bytes": 5}
        assert serve.client.get(f"/api/results/{old}").status_code == 410
        assert "result_url" not in serve.client.get(f"/api/jobs/{old}").json()
        stats = serve.client.get("/api/stats").json()
        assert stats["methods"]["esrgan"]["completed"] == 1
        assert stats["results_bytes"] == 0


def test_a_result_goes_after_its_whole_download_if_the_job_asked_for_it(served: Served) -> None:
    serve = served.serve
    job_id = completed(serve, served.data, "png", retention="delete_after_download")
    address = f"/api/results/{job_id}"
    assert serve.client.head(address).status_code == 200
    assert serve.client.get(address, headers={"Range": "bytes=0-9"}).status_code == 206
    assert "expires_at" not in serve.client.get(f"/api/jobs/{job_id}").json()
    assert serve.client.get(address).status_code == 200
    assert "expires_at" in serve.client.get(f"/api/jobs/{job_id}").json()


@pytest.mark.parametrize("kind", ["base64", "zip"])
def test_a_whole_download_of_another_kind_counts_too(served: Served, kind: str) -> None:
    serve = served.serve
    job_id = completed(serve, served.data, "png", retention="delete_after_download")
    if kind == "zip":
        assert serve.client.get("/api/results.zip", params={"job_id": job_id}).content
    else:
        assert serve.client.get(f"/api/results/{job_id}", params={"encoding": "base64"}).content
    wait_until(
        lambda: "expires_at" in serve.client.get(f"/api/jobs/{job_id}").json(), "the removal"
    )


def test_a_zip_with_a_result_that_is_gone_is_refused(served: Served) -> None:
    there, gone = (completed(served.serve, b"x", "png") for _ in range(2))
    served.serve.service.storage.result(f"{gone}.png").unlink()
    params = {"job_id": [there, gone]}
    answer = served.serve.client.get("/api/results.zip", params=params)
    assert (answer.status_code, answer.json()["code"]) == (410, "result_gone")


@pytest.mark.parametrize(
    "target", ["/api/results/{}?encoding=base64", "/api/results.zip?job_id={}"]
)
def test_a_download_of_another_kind_that_breaks_off_does_not_count(
    tmp_path: Path, target: str
) -> None:
    with running_serve(tmp_path) as serve:
        job_id = completed_large(serve, retention="delete_after_download")
        with serve.client.stream("GET", target.format(job_id)) as answer:
            next(answer.iter_bytes(1024))
        wait_until(lambda: not files_open_in(tmp_path / "results"), "the end of the download")
        assert "expires_at" not in serve.client.get(f"/api/jobs/{job_id}").json()


def test_a_result_that_is_removed_while_it_is_sent_stays_removed(tmp_path: Path) -> None:
    with running_serve(tmp_path) as serve:
        job_id = completed_large(serve, retention="delete_after_download")
        with serve.client.stream("GET", f"/api/results/{job_id}") as answer:
            parts = answer.iter_bytes(1024)
            next(parts)
            assert serve.client.post("/api/cleanup", json={"older_than_s": 0}).status_code == 200
            assert sum(map(len, parts)) == LARGE_BYTES - 1024
        assert "result_url" not in serve.client.get(f"/api/jobs/{job_id}").json()


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("HEAD", "/api/results/{}?encoding=base64", {}),
        ("HEAD", "/api/results.zip?job_id={}", {}),
        ("GET", "/api/results/{}?preview=256", {"Range": "bytes=999999-"}),
        ("GET", "/api/results/{}", {"Range": "bytes=99999999-"}),
    ],
    ids=["head of base64", "head of a zip", "wrong range of a preview", "wrong range"],
)
def test_no_file_stays_open_after_an_answer_without_a_body(
    served: Served, method: str, target: str, headers: dict[str, str]
) -> None:
    address = target.format(served.picture.rpartition("/")[2])
    answer = served.serve.client.request(method, address, headers=headers)
    assert answer.status_code == (416 if headers else 200)
    folder = served.serve.service.storage.results
    wait_until(lambda: not files_open_in(folder), "the files to be closed")


def test_a_result_that_cannot_be_read_now_is_not_said_to_be_removed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr("upscaled_http.results.os.open", fail)
        answer = served.serve.client.get(served.picture)
    assert (answer.status_code, answer.json()["retryable"]) == (507, True)


def test_more_zips_than_the_server_has_files_for_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled_http.archives.MAX_OPEN_FILES", 3)
    with running_serve(tmp_path) as serve:
        ids = [completed_large(serve) for _ in range(4)]

        def ask(*job_ids: str) -> int:
            return serve.client.head("/api/results.zip", params={"job_id": job_ids}).status_code

        with serve.client.stream("GET", "/api/results.zip", params={"job_id": ids[:2]}) as slow:
            parts = slow.iter_bytes(1024)  # the end of this generator would end the download
            next(parts)
            assert ask(ids[2]) == 200
            answer = serve.client.get("/api/results.zip", params={"job_id": ids[2:]})
            assert (answer.status_code, answer.json()["retryable"]) == (503, True)
            assert int(answer.headers["retry-after"]) > 0
            assert serve.client.get(f"/api/results/{ids[2]}").status_code == 200
        wait_until(lambda: ask(*ids[1:]) == 200, "room for another zip")
