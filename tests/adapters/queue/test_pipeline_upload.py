"""`POST /api/images/upload`: a picture into a bucket, through the sidecar."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

import nearest_engine
from chromium import PHONE, opened_page, running_chromium
from object_store import OTHER_BUCKET, ObjectStore, running_object_store
from serve_process import ServeProcess, code_of, picture, serve_process
from upscaled_queue.pipeline.bucket import FOLDERS, Bucket
from waiting import wait_until
from webhook_receiver import SECRET, receiving

pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture(scope="module")
def serve(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serve_process(
        tmp_path_factory.mktemp("data"),
        S3_BUCKET="pictures",
        UPSCALE_SCALE="2",
        **store.environment,
    ) as running:
        yield running


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return Bucket(store.url)


def upload(serve: ServeProcess, name: str, data: bytes, **fields: str) -> httpx2.Response:
    return serve.client.post("/api/images/upload", data=fields, files={"image": (name, data)})


def upload_batch(serve: ServeProcess, pictures: dict[str, bytes], **fields: str) -> httpx2.Response:
    files = [("image", (name, data)) for name, data in pictures.items()]
    return serve.client.post("/api/images/upload", data=fields, files=files)


def finished(serve: ServeProcess, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """The pictures of a batch, once all of them have ended."""
    found: list[dict[str, Any]] = []

    def look() -> bool:
        answer = serve.client.get(batch["status_url"]).json()
        found[:] = answer["pictures"]
        return bool(answer["status"] == "finished")

    wait_until(look, "the end of the batch")
    return found


def result_of(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()["result"]
    return result


def found(bucket: Bucket, key: str, folder: Path) -> dict[str, bytes]:
    """What lies in the bucket under a key, by folder."""
    objects = {}
    for name in FOLDERS:
        copy = folder / name
        try:
            asyncio.run(bucket.read(f"{name}/{key}", copy))
        except FileNotFoundError:
            continue
        objects[name] = copy.read_bytes()
    return objects


def large() -> bytes:
    buffer = BytesIO()
    Image.new("1", (3840, 1080)).save(buffer, "PNG")
    return buffer.getvalue()


def torn() -> bytes:
    """Its header is whole, its pixels are not."""
    data = picture(200, 100)
    cut = data.index(b"IDAT") + 8
    return data[:cut]


def test_the_form_may_ask_for_faces(serve: ServeProcess) -> None:
    answer = upload(serve, "portrait.png", picture(90, 60), faces="true")
    assert result_of(answer)["folder"] == "upscaled"
    faces = serve.client.get(answer.headers["location"]).json()["faces"]
    assert len(faces) == 2
    assert result_of(answer)["faces"] == faces


def test_a_good_picture_is_kept_without_a_job(
    serve: ServeProcess, bucket: Bucket, tmp_path: Path
) -> None:
    answer = upload(serve, "good.png", large())
    result = result_of(answer)
    assert answer.json()["success"] is True
    assert (result["status"], result["folder"]) == ("success", "good_quality")
    assert (result["quality_score"], result["upscale_scale"]) == (0.5, None)
    assert found(bucket, result["original_key"], tmp_path) == {"good_quality": large()}
    assert "location" not in answer.headers


def test_a_small_one_is_upscaled_by_a_job_once(
    serve: ServeProcess, bucket: Bucket, tmp_path: Path
) -> None:
    data = picture(30, 20, "JPEG")
    first = upload(serve, "small.jpg", data, label="shop")
    result = result_of(first)
    assert (result["folder"], result["upscale_scale"]) == ("upscaled", 2)
    stored = found(bucket, result["original_key"], tmp_path)
    assert list(stored) == ["upscaled"]
    with Image.open(BytesIO(stored["upscaled"])) as image:
        assert (image.size, image.format) == ((60, 40), "JPEG")
    job = serve.client.get(first.headers["location"]).json()
    assert (job["status"], job["label"], job["name"]) == ("completed", "shop", "small.jpg")
    again = upload(serve, "small.jpg", data)
    assert again.json() == first.json() == asyncio.run(bucket.record(result["original_key"]))
    assert "location" not in again.headers


def test_the_original_is_stored_if_its_job_fails(
    serve: ServeProcess, bucket: Bucket, tmp_path: Path
) -> None:
    answer = upload(serve, "torn.png", torn())
    result = result_of(answer)
    assert answer.json()["success"] is False
    assert (result["status"], result["code"]) == ("error", "input_unreadable")
    assert found(bucket, result["original_key"], tmp_path) == {"couldn't_upscale": torn()}
    # Neither the upload nor what the pipeline wrote is left on the disk.
    assert {name.partition("/")[0] for name in serve.files()} <= {"results"}


def test_a_refused_request_files_nothing_and_is_answered_as_elsewhere(
    serve: ServeProcess,
) -> None:
    assert code_of(upload(serve, "a.txt", b"no picture")) == (415, "unsupported_format")
    assert code_of(serve.client.post("/api/images/upload", data={"label": "x"})) == (
        400,
        "invalid_request",
    )
    refused = upload(serve, "a.png", picture(), upscale_factor="8")
    assert code_of(refused) == (400, "invalid_job")
    assert "webhook" in refused.json()["detail"]


def test_pictures_are_counted_by_folder_and_by_score_once(serve: ServeProcess) -> None:
    def counted() -> tuple[float, float]:
        lines = serve.client.get("/metrics").text.splitlines()
        pairs = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        folder = 'upscaled_pipeline_pictures_total{folder="upscaled"}'
        return float(pairs.get(folder, 0)), float(pairs["upscaled_pipeline_score_count"])

    pictures, scores = counted()
    for _ in range(2):
        upload(serve, "counted.png", picture(14, 9))
    assert counted() == (pictures + 1, scores + 1)


def test_several_pictures_are_a_batch_whose_state_tells_of_each(
    serve: ServeProcess, bucket: Bucket, tmp_path: Path
) -> None:
    before = serve.client.get("/api/images").json()
    pictures = {
        "b-good.png": large(),
        "b-small.jpg": picture(31, 20, "JPEG"),
        "b-torn.png": torn()[:-1],
        "b-none.txt": b"no picture",
    }
    answer = upload_batch(serve, pictures, label="shop")
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert answer.headers["location"] == batch["status_url"]
    assert [(one["name"], one["code"]) for one in batch["refused"]] == [
        ("b-none.txt", "unsupported_format")
    ]
    one, two, three = finished(serve, batch)
    assert [one["name"], two["name"], three["name"]] == list(pictures)[:3]
    assert {one["status"], two["status"], three["status"]} == {"filed"}
    assert [one["success"], two["success"], three["success"]] == [True, True, False]
    folders = {name["result"]["folder"]: name["result"] for name in (one, two, three)}
    for folder, result in folders.items():
        assert list(found(bucket, result["original_key"], tmp_path)) == [folder]
        recorded = asyncio.run(bucket.record(result["job_id"]))
        assert recorded is not None
        assert {**recorded["result"], "processed_at": result["processed_at"]} == result
    assert list(folders) == ["good_quality", "upscaled", "couldn't_upscale"]
    assert serve.client.get(f"/api/jobs/{two['job_id']}").json()["label"] == "shop"

    stats = serve.client.get("/api/images").json()
    grown = {name: count - before["folders"][name] for name, count in stats["folders"].items()}
    # The picture of good quality was filed before, by its content and its name.
    assert grown == {"good_quality": 1, "upscaled": 1, "couldn't_upscale": 1}
    assert sum(one["pictures"] for one in stats["scores"]) == sum(stats["folders"].values())
    assert 0 < stats["success_rate"] < 1
    assert (stats["open"], stats["threshold"], stats["scale"]) == (0, 0.5, 2)
    assert [name["name"] for name in stats["recent"]][:3] == list(pictures)[2::-1]
    assert {name.partition("/")[0] for name in serve.files()} <= {"results"}


def test_a_batch_is_refused_if_none_of_its_files_is_a_picture(serve: ServeProcess) -> None:
    answer = upload_batch(serve, {"a.txt": b"no", "b.txt": b"no"})
    assert code_of(answer) == (415, "unsupported_format")
    assert code_of(upload_batch(serve, {"a.png": picture(), "b.png": picture()}, scale="8")) == (
        400,
        "invalid_job",
    )
    assert code_of(serve.client.get("/api/images/batches/none")) == (404, "not_found")


def test_the_page_shows_the_folders_the_scores_and_the_success_rate(serve: ServeProcess) -> None:
    upload(serve, "page-good.png", large())
    answer = upload_batch(serve, {"page-a.png": picture(40, 30), "page-b.png": torn()}).json()
    finished(serve, answer)
    stats = serve.client.get("/api/images").json()
    with running_chromium() as browser:
        for theme in ("light", "dark"):
            with opened_page(browser, serve.url, viewport=PHONE, color_scheme=theme) as page:
                pipeline = page.get_by_role("region", name="Pipeline")
                expect(pipeline).to_contain_text("s3://pictures")
                expect(pipeline).to_contain_text(f"{round(stats['success_rate'] * 100, 1):g}%")
                folders = pipeline.get_by_role("table", name="Folders")
                for name, count in stats["folders"].items():
                    row = folders.get_by_role("row").filter(has_text=name)
                    expect(row.get_by_role("cell")).to_have_text(str(count))
                scores = pipeline.get_by_role("table", name="Scores").get_by_role("row")
                expect(scores).to_have_count(len(stats["scores"]) + 1)
                last = pipeline.locator(".filed")
                expect(last.first).to_contain_text("page-b.png")
                expect(last.first).to_contain_text("couldn't_upscale")
                assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
                found = Axe().run(page, options={"resultTypes": ["violations"]})
                assert found.violations_count == 0, found.generate_report()


def test_a_batch_outlives_a_killed_server_and_its_webhook_is_told_of_each_picture(
    store: ObjectStore, bucket: Bucket, tmp_path: Path
) -> None:
    hold = tmp_path / "hold"
    hold.touch()
    pictures = {f"k{number}.png": picture(20 + number, 10) for number in range(4)}
    pictures["k-torn.png"], pictures["k-good.png"] = torn(), large()
    with (
        receiving() as receiver,
        serve_process(
            tmp_path / "data",
            S3_BUCKET="pictures",
            UPSCALE_SCALE="2",
            UPSCALED_WEBHOOKS_SECRET=SECRET,
            UPSCALED_WEBHOOKS_ALLOW_HOSTS=receiver.host,
            **{nearest_engine.HOLD: str(hold)},
            **store.environment,
        ) as serve,
    ):
        # A picture that needs no job has its webhook too.
        single = upload(serve, "k-single.png", large(), webhook=receiver.url("/single"))
        assert result_of(single)["folder"] == "good_quality"
        assert receiver.next()["data"]["name"] == "k-single.png"
        batch = upload_batch(serve, pictures, webhook=receiver.url()).json()

        def has_job() -> bool:
            shown = serve.client.get(batch["status_url"]).json()
            return any(one["job_id"] for one in shown["pictures"])

        wait_until(has_job, "a job of the batch")
        serve.kill()
        serve.start()
        state = serve.client.get(batch["status_url"]).json()
        assert (state["status"], len(state["pictures"])) == ("processing", 6)
        hold.unlink()
        results = [one["result"] for one in finished(serve, batch)]
        folders = ["upscaled"] * 4 + ["couldn't_upscale", "good_quality"]
        assert [one["folder"] for one in results] == folders
        for one in results:
            assert list(found(bucket, one["original_key"], tmp_path)) == [one["folder"]]
        # A job that was there before the kill has upscaled its picture.
        assert len(serve.client.get("/api/jobs").json()["jobs"]) == 5
        wait_until(
            lambda: {name.partition("/")[0] for name in serve.files()} <= {"results"},
            "the removal of the uploads",
        )
        events = [receiver.next() for _ in pictures]
    assert {event["type"] for event in events} == {"picture.filed"}
    told = {event["data"]["name"]: event["data"]["result"]["folder"] for event in events}
    assert told == dict(zip(pictures, folders, strict=True))


def test_a_bucket_that_refuses_is_a_problem_that_shows_no_secret(
    store: ObjectStore, tmp_path: Path
) -> None:
    with serve_process(tmp_path / "data", S3_BUCKET=OTHER_BUCKET, **store.environment) as serve:
        answer = upload(serve, "a.png", picture())
        assert code_of(answer) == (503, "storage_unavailable")
        serve.stop()
    assert b"s3://others cannot be used" in serve.log
    for secret in (store.secret, "X-Amz", "Signature"):
        assert secret not in answer.text
        assert secret.encode() not in serve.log
