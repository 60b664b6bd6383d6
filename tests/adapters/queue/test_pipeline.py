"""The pipeline against a real S3 server: one folder and one record per picture."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import nearest_engine
from object_store import OTHER_BUCKET, ObjectStore, running_object_store
from upscaled import AsyncUpscaler
from upscaled.errors import InputError, JobCancelledError, UpscaledError
from upscaled_imaging.storage import ObjectStorageError
from upscaled_queue.pipeline.bucket import FOLDERS, Bucket
from upscaled_queue.pipeline.command import main
from upscaled_queue.pipeline.process import Faces, Picture, Pipeline, PipelineResult
from upscaled_queue.pipeline.scores import resolution

pytest.importorskip("obstore")


# A sign that a URL has before a password, and that a folder may have.
PREFIX_WITH_SIGN = "shop@home"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(
    server: ObjectStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Bucket:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(f"{server.url}/{request.node.name.partition('[')[0]}")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    Image.new("RGB", (64, 48), "teal").save(path)
    return path


@pytest.fixture
def large(tmp_path: Path) -> Path:
    path = tmp_path / "Größe & Höhe.PNG"
    Image.new("1", (3840, 1080)).save(path)
    return path


class Enlarger:
    """Stands in for the daemon: gives a known file, or fails."""

    def __init__(self, error: Exception | None = None, faces: Faces = None) -> None:
        self.calls = 0
        self.error = error
        self.faces = faces

    async def __call__(self, path: Path, output: Path) -> Faces:
        self.calls += 1
        if self.error is not None:
            raise self.error
        output.write_bytes(b"enlarged " + path.read_bytes())
        return self.faces


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def processed(
    bucket: Bucket, picture: Picture, upscale: Enlarger, scale: int = 2
) -> Coroutine[Any, Any, PipelineResult]:
    return Pipeline(bucket, upscale, resolution, scale=scale).process(picture)


def found(bucket: Bucket, key: str) -> dict[str, bytes]:
    """What lies in the bucket under a key, by folder."""

    async def look() -> dict[str, bytes]:
        objects = {}
        for folder in (*FOLDERS, "incoming"):
            copy = Path(f"{key}.copy")
            try:
                await bucket.read(f"{folder}/{key}", copy)
            except FileNotFoundError:
                continue
            objects[folder] = copy.read_bytes()
        return objects

    return run(look())  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.chdir(tmp_path / "scratch")


def test_a_picture_that_scores_the_threshold_is_kept_as_it_is(bucket: Bucket, large: Path) -> None:
    picture, enlarger = Picture.of_file(large), Enlarger()
    result: PipelineResult = run(processed(bucket, picture, enlarger))
    assert enlarger.calls == 0
    assert found(bucket, picture.key) == {"good_quality": large.read_bytes()}
    assert (result.status, result.folder, result.quality_score) == ("success", "good_quality", 0.5)
    assert result.upscale_scale is None
    assert result.s3_url == bucket.url_of(f"good_quality/{picture.key}")
    assert run(bucket.record(picture.key)) == result.fields
    assert set(result.fields["result"]) >= {
        "original_key", "status", "folder", "s3_url", "quality_score", "upscale_scale",
        "processed_at",
    }  # fmt: skip


def test_a_smaller_one_is_upscaled(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    result = run(processed(bucket, picture, Enlarger()))
    assert found(bucket, picture.key) == {"upscaled": b"enlarged " + small.read_bytes()}
    assert (result.status, result.upscale_scale, result.code) == ("success", 2, None)


def test_the_record_of_an_upscaled_picture_lists_its_faces(bucket: Bucket, small: Path) -> None:
    picture, faces = Picture.of_file(small), [{"score": 0.9, "restored": True}]
    result = run(processed(bucket, picture, Enlarger(faces=faces)))
    assert result.faces == faces
    assert run(bucket.record(picture.key)) == result.fields
    assert run(processed(bucket, picture, Enlarger())) == result


def test_a_record_of_another_version_is_read(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    written = run(processed(bucket, picture, Enlarger())).fields
    older = {name: value for name, value in written["result"].items() if name != "faces"}
    for result in (older, {**written["result"], "sharpness": 0.7}):
        assert PipelineResult.of_fields({**written, "result": result}).fields == written


def test_what_cannot_be_upscaled_is_kept_as_it_was(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    error = InputError("the file is cut off", code="input_unreadable", retryable=False, details={})
    result = run(processed(bucket, picture, Enlarger(error)))
    assert found(bucket, picture.key) == {"couldn't_upscale": small.read_bytes()}
    assert (result.status, result.code) == ("error", "input_unreadable")
    assert result.fields["success"] is False
    assert result.fields["message"] == "the file is cut off"


def test_a_defect_of_a_machine_files_no_picture(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    text = "the device cuda:0 cannot be used here"
    error = UpscaledError(text, code="internal", retryable=False, details={})
    with pytest.raises(UpscaledError, match=text):
        run(processed(bucket, picture, Enlarger(error)))
    assert found(bucket, picture.key) == {}
    assert run(processed(bucket, picture, Enlarger())).folder == "upscaled"


def test_a_file_that_has_no_score_is_left_to_the_upscaler(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "strange.bmp"
    path.write_bytes(b"strange")
    picture = Picture.of_file(path)
    result = run(processed(bucket, picture, Enlarger()))
    assert (result.folder, result.quality_score) == ("upscaled", None)
    # A format that is not written becomes PNG.
    assert result.s3_url.endswith(".png")


def test_a_picture_is_processed_once(bucket: Bucket, small: Path) -> None:
    picture, enlarger = Picture.of_file(small), Enlarger()
    first = run(processed(bucket, picture, enlarger))
    assert run(processed(bucket, picture, enlarger, scale=4)) == first
    assert enlarger.calls == 1


def test_two_attempts_at_once_leave_one_result_and_one_folder(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    error = InputError("broken", code="input_unreadable", retryable=False, details={})

    async def both() -> list[PipelineResult]:
        attempts = (
            processed(bucket, picture, Enlarger()),
            processed(bucket, picture, Enlarger(error)),
        )
        return list(await asyncio.gather(*attempts))

    first, second = run(both())
    assert first == second
    assert list(found(bucket, picture.key)) == [first.folder]


def test_what_a_lost_attempt_left_is_deleted(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    first = run(processed(bucket, picture, Enlarger()))
    # Killed between its picture and its record, after the other attempt had ended.
    run(bucket.write(f"couldn't_upscale/{picture.key}", small))
    run(processed(bucket, picture, Enlarger()))
    assert list(found(bucket, picture.key)) == [first.folder]


@pytest.mark.parametrize("code", ["model_not_found", "worker_crashed", "output_unwritable", None])
def test_a_picture_is_not_filed_because_of_a_failure_that_is_not_its_own(
    bucket: Bucket, small: Path, code: str | None
) -> None:
    picture = Picture.of_file(small, f"{code}.png")
    with pytest.raises(UpscaledError):
        run(processed(bucket, picture, Enlarger(UpscaledError("no such model", code=code))))
    assert run(bucket.record(picture.key)) is None
    assert found(bucket, picture.key) == {}


def test_a_record_shows_no_path_of_the_machine(bucket: Bucket, small: Path) -> None:
    error = InputError(f"{small} is cut off", code="input_unreadable")
    result = run(processed(bucket, Picture.of_file(small), Enlarger(error)))
    assert result.message == f"{result.original_key} is cut off"


def test_an_attempt_whose_picture_another_one_has_filed_takes_its_result(
    bucket: Bucket, small: Path
) -> None:
    run(bucket.write("incoming/raced.png", small))

    class LateBucket(Bucket):
        """The other attempt ends after this one has looked for a record."""

        first: PipelineResult | None = None

        async def record(self, job_id: str) -> dict[str, Any] | None:
            if self.first is None:
                self.first = await processed(bucket, Picture("raced.png"), Enlarger())
                return None
            return await super().record(job_id)

    late = LateBucket(bucket.url)
    assert run(processed(late, Picture("raced.png"), Enlarger())) == late.first


def test_a_cancelled_picture_can_be_processed_again(bucket: Bucket, small: Path) -> None:
    picture = Picture.of_file(small)
    cancelled = JobCancelledError("cancelled", code="cancelled", retryable=False, details={})
    with pytest.raises(JobCancelledError):
        run(processed(bucket, picture, Enlarger(cancelled)))
    assert run(bucket.record(picture.key)) is None
    assert run(processed(bucket, picture, Enlarger())).status == "success"


def test_an_incoming_picture_is_taken_from_the_bucket_and_leaves_it(
    bucket: Bucket, small: Path
) -> None:
    run(bucket.write("incoming/p-1.png", small))
    result = run(processed(bucket, Picture("p-1.png"), Enlarger()))
    assert result.original_key == "p-1.png"
    assert found(bucket, "p-1.png") == {"upscaled": b"enlarged " + small.read_bytes()}
    with pytest.raises(FileNotFoundError):
        run(processed(bucket, Picture("p-2.png"), Enlarger()))


def test_pictures_of_one_name_do_not_replace_each_other(small: Path, large: Path) -> None:
    one, other = Picture.of_file(small, "a.png"), Picture.of_file(large, "a.png")
    assert one.key != other.key
    assert one.key == Picture.of_file(small, "a.png").key
    assert Picture.of_file(large).key.startswith("Größe_Höhe-")
    assert "/" not in Picture.of_file(small, "../../x/y.png").key


def test_a_bucket_that_is_not_ours_is_refused_without_a_secret_in_the_sentence(
    bucket: Bucket, server: ObjectStore, small: Path
) -> None:
    foreign = Bucket(f"s3://{OTHER_BUCKET}")
    with pytest.raises(ObjectStorageError) as caught:
        run(processed(foreign, Picture.of_file(small), Enlarger()))
    assert server.secret not in str(caught.value)
    assert "X-Amz" not in str(caught.value)


def test_a_bucket_that_is_missing_is_told_and_not_a_missing_picture(
    bucket: Bucket, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise FileNotFoundError("404 Not Found: <Code>NoSuchBucket</Code>")

    monkeypatch.setattr("obstore.put_async", refuse)
    with pytest.raises(ObjectStorageError, match="there is no such bucket"):
        asyncio.run(bucket.write("good_quality/a.png", small))
    with pytest.raises(FileNotFoundError):
        asyncio.run(bucket.write("good_quality/a.png", small.with_name("gone.png")))


@pytest.mark.parametrize("url", ["ftp://bucket", "pictures", "/tmp/pictures", "https://bucket"])
def test_only_buckets_are_taken(url: str) -> None:
    with pytest.raises(ValueError, match="s3://"):
        Bucket(url)


@pytest.mark.parametrize("url", ["s3://user:secret@bucket/a", "s3://bucket?X-Amz=secret"])
def test_a_bucket_with_a_secret_in_its_url_is_refused_because_records_have_the_url(
    url: str,
) -> None:
    with pytest.raises(ValueError, match="no user, password, query") as caught:
        Bucket(url)
    assert "secret" not in str(caught.value)
    assert PREFIX_WITH_SIGN in Bucket(f"s3://bucket/{PREFIX_WITH_SIGN}").url


def test_a_scale_of_the_environment_is_checked_as_the_option_is(
    bucket: Bucket, small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UPSCALE_SCALE", "3")
    with pytest.raises(SystemExit) as ended:
        main(["run", "--bucket", bucket.url, str(small)])
    assert ended.value.code == 2
    assert "'3' is neither 2 nor 4" in capsys.readouterr().err


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"{}", b'{"message":"","result":{}}'])
def test_what_is_no_record_is_named_and_the_other_pictures_are_filed(
    data: bytes,
    bucket: Bucket,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    obstore: Any = pytest.importorskip("obstore")

    async def upscale(_: AsyncUpscaler, path: Path, output: Path, **__: Any) -> SimpleNamespace:
        shutil.copy(path, output)
        return SimpleNamespace(message={})

    monkeypatch.setattr(AsyncUpscaler, "upscale", upscale)
    # Other pictures for each of the cases, because they share the bucket.
    for number, name in enumerate(("other.png", "small.png")):
        Image.new("RGB", (10 + len(data), 10 + number)).save(tmp_path / name)
    key = Picture.of_file(small).key
    obstore.put(bucket._store, f"results/{key}.json", data)
    assert main(["run", "--bucket", bucket.url, str(small), str(tmp_path / "other.png")]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out)["result"]["original_key"].startswith("other-")
    assert f"results/{key}.json is no record: delete it" in told.err
    assert found(bucket, key) == {}


def test_the_command_files_pictures_and_prints_a_line_each(
    bucket: Bucket,
    small: Path,
    large: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in nearest_engine.variables().items():
        monkeypatch.setenv(name, value)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 cut off")
    arguments = ["run", "--bucket", bucket.url, "--scale", "2", "--model", "compact-x2"]
    status = main([*arguments, str(small), str(large), str(broken)])
    lines = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    folders = {line["result"]["original_key"][:5]: line["result"]["folder"] for line in lines}
    assert status == 1
    assert folders == {
        "small": "upscaled", "Größe": "good_quality", "broke": "couldn't_upscale",
    }  # fmt: skip
    key = next(line["result"]["original_key"] for line in lines if "small" in str(line))
    Path("result.png").write_bytes(found(bucket, key)["upscaled"])
    with Image.open("result.png") as image:
        assert image.size == (128, 96)
        assert np.asarray(image).std() < 100


@pytest.mark.parametrize("options", [(), ("--faces",)])
def test_the_command_has_faces_restored_if_it_is_asked_to(
    options: Sequence[str],
    bucket: Bucket,
    small: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[bool] = []
    faces = [{"score": 0.9, "restored": True}] if options else None

    async def upscale(
        _: AsyncUpscaler, path: Path, output: Path, **options: Any
    ) -> SimpleNamespace:
        asked.append(options.get("faces", False))
        shutil.copy(path, output)
        return SimpleNamespace(message={"faces": faces})

    monkeypatch.setattr(AsyncUpscaler, "upscale", upscale)
    picture = small.rename(small.with_stem(f"small{len(options)}"))
    assert main(["run", "--bucket", bucket.url, *options, str(picture)]) == 0
    assert asked == [bool(options)]
    assert json.loads(capsys.readouterr().out)["result"]["faces"] == faces


def test_the_server_may_be_killed_and_come_back(
    bucket: Bucket, server: ObjectStore, small: Path
) -> None:
    picture = Picture.of_file(small)
    server.kill()

    async def meanwhile(start: Callable[[], None]) -> PipelineResult:
        attempt = asyncio.create_task(processed(bucket, picture, Enlarger()))
        await asyncio.to_thread(start)
        return await attempt

    result = run(meanwhile(server.start))
    assert list(found(bucket, picture.key)) == [result.folder] == ["upscaled"]
