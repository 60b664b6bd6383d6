"""The pipeline on the machines of a queue: a real Redis, a real S3 server, killed machines."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import nearest_engine
from free_ports import free_port
from object_store import ObjectStore, running_object_store
from queue_fleet import Fleet, Machine, needs_redis, running_fleet
from upscaled.errors import NotAllowedError, OutOfMemoryError
from upscaled_http.config import Settings as ServerSettings
from upscaled_http.queuedepth import queue_depth
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_queue.job import check_allowed, read_job
from upscaled_queue.pipeline.bucket import FOLDERS, INCOMING, Bucket
from upscaled_queue.pipeline.delivery import Deliveries, Delivery
from upscaled_queue.pipeline.process import Picture, PipelineResult
from upscaled_queue.pipeline.queued import QueuedPipeline
from upscaled_queue.pipeline.task import PictureTask, read_task
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.settings import Settings
from waiting import TIMEOUT_S, wait_until

pytest.importorskip("obstore")

LEASE_S = 2.0


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


class Site:
    """A fleet and a bucket. hold: while this file exists, no upscale ends."""

    def __init__(self, fleet: Fleet, bucket: Bucket, folder: Path) -> None:
        self.fleet = fleet
        self.bucket = bucket
        self.pictures = folder / "pictures"
        self.pictures.mkdir()
        self.hold = folder / "hold"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()

    def start_machine(self, *options: str) -> Machine:
        return self.fleet.start_machine(
            "--methods", "pipeline", "--allow-url", self.bucket.url, "--lease-s", str(LEASE_S),
            *options, daemon=["--workers", "1"],
        )  # fmt: skip

    def picture(self, name: str, width: int = 30, height: int = 20) -> Path:
        path = self.pictures / name
        Image.new("RGB", (width, height), (len(name), width % 256, height % 256)).save(path)
        return path

    def start(self, *pictures: Path) -> subprocess.Popen[str]:
        """`upscaled pipeline run` with the queue."""
        command = [sys.executable, "-m", "upscaled_cli", "pipeline", "run", "--scale", "2"]
        command += ["--bucket", self.bucket.url, "--queue", self.fleet.url]
        return subprocess.Popen(
            [*command, *map(str, pictures)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def where(self, key: str, upscaled_key: str | None = None) -> list[str]:
        """The folders of the bucket in which the picture lies."""
        return [
            folder
            for folder in (*FOLDERS, INCOMING)
            if self._has(f"{folder}/{upscaled_key or key}" if folder == "upscaled" else
                         f"{folder}/{key}")
        ]  # fmt: skip

    def _has(self, place: str) -> bool:
        try:
            asyncio.run(self.bucket.read(place, self.scratch / "copy"))
        except FileNotFoundError:
            return False
        return True


def results_of(process: subprocess.Popen[str]) -> tuple[int, dict[str, dict[str, Any]], str]:
    """Its exit status, what it printed by name of the picture, and its stderr."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    lines = [json.loads(line) for line in out.splitlines()]
    return (
        process.returncode,
        {one["result"]["original_key"].partition("-")[0]: one for one in lines},
        err,
    )


@pytest.fixture
def site(
    fleet: Fleet,
    store: ObjectStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Site:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    here = Site(fleet, Bucket(f"{store.url}/{request.node.name.replace('[', '-')[:-1]}"), tmp_path)
    environment = nearest_engine.environment()
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    monkeypatch.setenv(nearest_engine.HOLD, str(here.hold))
    monkeypatch.setenv("TMPDIR", str(here.scratch))
    return here


@needs_redis
@pytest.mark.long
def test_machines_file_pictures_once_although_one_is_killed_and_one_is_sent_away(
    site: Site,
) -> None:
    small = [site.picture(f"small{number}.png", 30 + number) for number in range(4)]
    good = site.picture("good.jpg", 3840, 1080)
    broken = site.pictures / "broken.bmp"
    broken.write_bytes(b"BM cut off")
    site.hold.touch()
    command = site.start(*small, good, broken)
    killed = site.start_machine("--slots", "1")
    sent_away = site.start_machine("--slots", "1", "--grace-s", "0.2")
    site.start_machine("--slots", "1")
    for machine in site.fleet.machines:
        machine.wait_ready()
        wait_until(partial(running_here, site, machine), "a picture of the machine")
    killed.kill()
    sent_away.process.send_signal(signal.SIGTERM)
    assert sent_away.wait_exit() == 0
    site.hold.unlink()

    status, results, err = results_of(command)
    assert status == 1, err
    assert {name: one["result"]["folder"] for name, one in results.items()} == {
        **{path.stem: "upscaled" for path in small},
        "good": "good_quality",
        "broken": "couldn't_upscale",
    }
    assert results["broken"]["result"]["code"] == "unsupported_format"
    assert str(site.scratch) not in results["broken"]["message"]
    for one in results.values():
        result = PipelineResult.of_fields(one)
        name = Path(result.original_key).with_suffix(".png").name
        assert site.where(result.original_key, name) == [result.folder]
        assert asyncio.run(site.bucket.record(result.job_id)) == one
    # What was sent away left nothing on its disk; the killed machine could not clean up.
    assert len(list(site.scratch.glob("upscaled-pipeline-*"))) == 2


def running_here(site: Site, machine: Machine) -> bool:
    records = site.fleet.records
    held = [str(one) for one in records.redis.zrange("upscaled:running:pipeline", 0, -1)]
    return any(records.status_of(one, LEASE_S).get("machine") == machine.name for one in held)


@needs_redis
@pytest.mark.parametrize("fleet", ["bullmq"], indirect=True)
def test_a_picture_whose_job_ended_badly_is_given_anew_and_a_filed_one_is_not(site: Site) -> None:
    picture = Picture.of_file(site.picture("again.png"))
    settings = Settings(url=read_queue_url(site.fleet.url))

    async def process(score: str) -> PipelineResult:
        pipeline = QueuedPipeline(site.bucket, settings, scale=2, score=score)
        return await pipeline.process(picture)

    machine = site.start_machine()
    with pytest.raises(NotAllowedError, match="has no score 'nowhere:score'"):
        asyncio.run(process("nowhere:score"))
    assert site.where(picture.key) == [INCOMING]
    result = asyncio.run(process("resolution"))
    assert (result.folder, result.status, result.upscale_scale) == ("upscaled", "success", 2)
    # What is recorded needs no machine.
    machine.kill()
    assert asyncio.run(process("resolution")) == result
    assert site.where(picture.key) == ["upscaled"]


@needs_redis
@pytest.mark.parametrize("fleet", ["redis"], indirect=True, ids=["celery"])
def test_an_emptied_redis_gets_the_open_pictures_again(site: Site) -> None:
    picture = Picture.of_file(site.picture("lost.png"))
    settings = Settings(url=read_queue_url(site.fleet.url))

    async def process() -> PipelineResult:
        end = await QueuedPipeline(site.bucket, settings, scale=2).give(picture)
        site.fleet.records.redis.flushall()
        site.start_machine()
        return await end

    assert asyncio.run(process()).folder == "upscaled"
    assert site.where(picture.key) == ["upscaled"]


@needs_redis
@pytest.mark.parametrize("fleet", ["redis"], indirect=True, ids=["celery"])
def test_a_native_task_names_a_picture_that_is_in_the_bucket_and_can_be_cancelled(
    site: Site,
) -> None:
    asyncio.run(site.bucket.write(f"{INCOMING}/photo.png", site.picture("photo.png")))
    config = {"bucket": site.bucket.url, "key": "photo.png", "scale": 2}
    job = {"job_id": "order-17", "method": "pipeline", "config": config}
    missing = {**job, "job_id": "order-18", "config": {**config, "key": "other.png"}}
    foreign = {**job, "job_id": "order-19", "config": {**config, "bucket": "s3://others"}}
    site.hold.touch()
    metrics = f"127.0.0.1:{free_port()}"
    site.start_machine("--metrics-address", metrics)
    site.fleet.submit(job)
    site.fleet.wait_running("order-17")
    assert site.fleet.records.cancel("order-17")
    assert site.fleet.end_of("order-17")["code"] == "cancelled"
    assert site.where("photo.png") == [INCOMING]

    site.hold.unlink()
    assert site.fleet.command("requeue", "order-17").returncode == 0
    site.fleet.submit(missing, foreign)
    end = site.fleet.end_of("order-17")
    assert (end["type"], end["job_id"], end["success"]) == ("result", "order-17", True)
    assert (end["result"]["folder"], end["result"]["job_id"]) == ("upscaled", "photo.png")
    assert site.fleet.end_of("order-18")["code"] == "input_not_found"
    assert site.fleet.end_of("order-19")["code"] == "path_not_allowed"
    with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
        counted = answer.read().decode()
    assert 'upscaled_pipeline_pictures_total{folder="upscaled"} 1.0' in counted
    assert "upscaled_pipeline_score_count 1.0" in counted


def test_the_daemon_gets_the_model_and_the_wish_for_faces_of_a_picture() -> None:
    given: list[dict[str, Any]] = []
    faces = [{"score": 0.9, "restored": True}]
    ended: Future[Any] = Future()
    ended.set_result(SimpleNamespace(message={"faces": faces}))

    def submit(message: dict[str, Any]) -> Future[Any]:
        given.append(message["config"])
        return ended

    for options in ({}, {"model": "compact-x2", "faces": True}):
        task = PictureTask(bucket="s3://pictures", key="a.png", **options)
        job = read_job(task.message())
        delivery = Delivery(job, submit, is_last=True)
        config = read_task(job.message["config"])
        assert asyncio.run(delivery.upscale(config, Path("in"), Path("out"))) == faces
    paths = {"image_path": "in", "output_path": "out", "upscale_factor": 4}
    assert given == [paths, paths | {"model": "compact-x2", "faces": True}]


@pytest.mark.parametrize("is_last", [False, True])
def test_a_picture_is_filed_with_a_retryable_failure_only_by_its_last_delivery(
    is_last: bool, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    bucket, key = Bucket(store.url), f"hungry-{is_last}.png"
    path = tmp_path / key
    Image.new("RGB", (20, 10)).save(path)
    asyncio.run(bucket.write(f"{INCOMING}/{key}", path))
    failed: Future[Any] = Future()
    failed.set_exception(OutOfMemoryError("too little", code="out_of_memory", retryable=True))
    job = read_job(PictureTask(bucket=store.url, key=key).message())
    deliveries = Deliveries([])
    event = deliveries.event(Delivery(job, lambda _: failed, is_last=is_last))
    deliveries.close()
    if is_last:
        assert (event["type"], event["result"]["code"]) == ("result", "out_of_memory")
        assert event["result"]["folder"] == "couldn't_upscale"
    else:
        assert (event["type"], event["retryable"]) == ("error", True)
        assert asyncio.run(bucket.record(key)) is None
    assert not deliveries.scratch.exists()


def test_a_picture_whose_record_is_none_ends_with_an_error_that_names_it(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    obstore: Any = pytest.importorskip("obstore")
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    bucket, key = Bucket(store.url), "recorded-by-another.png"
    obstore.put(bucket._store, f"results/{key}.json", b"<html>")
    job = read_job(PictureTask(bucket=store.url, key=key).message())
    deliveries = Deliveries([])
    event = deliveries.event(Delivery(job, lambda _: Future(), is_last=False))
    deliveries.close()
    assert (event["type"], event["code"], event["retryable"]) == ("error", "internal", False)
    assert f"results/{key}.json is no record: delete it" in event["error"]


@needs_redis
def test_a_server_with_a_bucket_tells_how_many_pictures_wait(tmp_path: Path) -> None:
    with running_fleet("redis", tmp_path) as fleet:
        job = PictureTask(bucket="s3://pictures", key="a.png").message()
        assert fleet.command("submit", jobs=[job]).returncode == 0
        given = {"queue": {"url": fleet.url}, "pipeline": {"bucket": "s3://pictures"}}
        depth = asyncio.run(queue_depth(ServerSettings.model_validate(given)))
    assert depth["pipeline"]["waiting"] == 1


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"key": "a.png"}, "bucket"),
        ({"bucket": "ftp://b", "key": "a.png"}, "bucket"),
        ({"bucket": "s3://b?X-Amz-Signature=1", "key": "a.png"}, "bucket"),
        ({"bucket": "s3://b", "key": "../a.png"}, "key"),
        ({"bucket": "s3://b", "key": ".."}, "key"),
        ({"bucket": "s3://b", "key": ""}, "key"),
        ({"bucket": "s3://b", "key": "a.png", "scale": 3}, "scale"),
        ({"bucket": "s3://b", "key": "a.png", "threshold": -1}, "threshold"),
        ({"bucket": "s3://b", "key": "a.png", "treshold": 1}, "treshold"),
        (None, "config"),
    ],
)
def test_a_task_that_names_no_picture_is_refused_by_its_field(config: Any, word: str) -> None:
    with pytest.raises(JobError, match=word) as caught:
        read_task(config)
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_a_task_has_an_id_per_bucket_and_picture_that_fits() -> None:
    one = PictureTask(bucket="s3://b", key="a.png")
    assert one.job_id == "s3://b/a.png" == one.message()["job_id"]
    assert one.message()["config"] == {"bucket": "s3://b", "key": "a.png"}
    long = PictureTask(bucket=f"s3://{'b' * 60}", key="k" * 100)
    assert read_job(long.message()).job_id == long.job_id


@pytest.mark.parametrize(
    ("bucket", "is_allowed"),
    [
        ("s3://pictures", True),
        ("s3://pictures/shop", True),
        ("s3://pictures2", False),
        ("s3://pictures/../others", False),
        ("gs://pictures", False),
    ],
)
def test_a_machine_takes_buckets_below_those_that_it_allows(bucket: str, is_allowed: bool) -> None:
    job = read_job(PictureTask(bucket=bucket, key="a.png").message())
    for allowed in ("s3://pictures", "s3://pictures/"):
        if is_allowed:
            check_allowed(job, (allowed,))
        else:
            with pytest.raises(JobError, match="--allow-url"):
                check_allowed(job, (allowed,))


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(900)
def test_long_killed_machines_and_a_killed_s3_server_file_every_picture_once(
    site: Site, store: ObjectStore
) -> None:
    pictures = [site.picture(f"p{number}.png", 30 + number) for number in range(150)]
    command = site.start(*pictures)
    machines = [site.start_machine("--max-deliveries", "20").wait_ready() for _ in range(3)]
    for number in range(9):
        ended = (number + 1) * 10
        wait_until(lambda: len(site.fleet.ends()) >= ended, f"{ended} ends")  # noqa: B023
        if number in (3, 6):
            store.kill()
            store.start()
            continue
        machines.pop(0).kill()
        machines.append(site.start_machine("--max-deliveries", "20"))
    out, err = command.communicate(timeout=600)
    assert command.returncode == 0, err
    results = [PipelineResult.of_fields(json.loads(line)) for line in out.splitlines()]
    assert len({one.original_key for one in results}) == len(pictures)
    for one in results:
        assert site.where(one.original_key) == [one.folder] == ["upscaled"]
        recorded = asyncio.run(site.bucket.record(one.job_id))
        assert recorded == one.fields
