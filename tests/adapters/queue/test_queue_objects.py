"""A fleet whose pictures are objects: the S3 server is killed, and so is who uploads to it."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from holding_proxy import HoldingProxy, holding_proxy
from object_store import ObjectStore, running_object_store
from queue_fleet import Fleet, Job, Machine, needs_redis, running_fleet

obstore = pytest.importorskip("obstore", reason="obstore is not installed")

pytestmark = [needs_redis, pytest.mark.timeout(900)]

OPTIONS = ("--lease-s", "1.5", "--max-deliveries", "20")
SMALL = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
# Its upscaled PNG has more than one part of 5 MiB.
LARGE = np.random.default_rng(2).integers(0, 256, (1000, 1000, 3), dtype=np.uint8)
PART = b"partNumber=2"
PASSED_BYTES = 256 * 1024


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with running_object_store(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def bucket(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """obstore's own view of the bucket, which has a picture and no output."""
    from obstore.store import from_url

    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    opened = from_url(store.url)
    for output in outputs(opened):
        obstore.delete(opened, output)
    return opened


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """On Celery, without machines."""
    with running_fleet("redis", tmp_path) as running:
        yield running


def put_picture(bucket: Any, name: str, pixels: np.ndarray[Any, Any]) -> None:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    obstore.put(bucket, name, file.getvalue())


def outputs(bucket: Any) -> list[str]:
    return sorted(one["path"] for page in obstore.list(bucket, "out/") for one in page)


def check_output(bucket: Any, job_id: str, pixels: np.ndarray[Any, Any]) -> None:
    data = bytes(obstore.get(bucket, f"out/{job_id}.png").bytes())
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(np.asarray(image)[::2, ::2], pixels)


def job(store: ObjectStore, job_id: str, source: str) -> Job:
    urls = {"image_url": f"{store.url}/{source}", "output_url": f"{store.url}/out/{job_id}.png"}
    return {"job_id": job_id, "method": "esrgan", "config": {**urls, "upscale_factor": 2}}


def disturb(
    fleet: Fleet, store: ObjectStore, bucket: Any, *, machines: int, jobs: int, kills: list[str]
) -> None:
    """Run jobs. Meanwhile kill machines, each replaced by a new one, and the server."""
    put_picture(bucket, "small.png", SMALL)
    fleet.use_objects(store)
    for machine in [fleet.start_machine(*OPTIONS) for _ in range(machines)]:
        machine.wait_ready()
    ids = [f"job-{number}" for number in range(jobs)]
    fleet.submit(*(job(store, job_id, "small.png") for job_id in ids))
    alive = fleet.disturb(jobs, kills, store, OPTIONS, seed=3)
    fleet.check_each_ends_once(ids)
    assert all(machine.process.poll() is None for machine in alive)
    assert outputs(bucket) == sorted(f"out/{job_id}.png" for job_id in ids)
    for job_id in ids:
        check_output(bucket, job_id, SMALL)


def test_a_killed_object_storage_loses_and_doubles_no_job(
    fleet: Fleet, store: ObjectStore, bucket: Any
) -> None:
    disturb(fleet, store, bucket, machines=1, jobs=30, kills=["server"])


@pytest.mark.long
@pytest.mark.parametrize("scheme", ["redis", "bullmq"])
def test_long_an_object_storage_that_is_killed_again_and_again_loses_and_doubles_no_job(
    scheme: str, tmp_path: Path, store: ObjectStore, bucket: Any
) -> None:
    kills = ["server"] * 10 + ["machine"] * 5
    random.Random(7).shuffle(kills)
    with running_fleet(scheme, tmp_path) as fleet:
        disturb(fleet, store, bucket, machines=3, jobs=300, kills=kills)


def uploader(machine: Machine, proxy: HoldingProxy) -> psutil.Process:
    """The worker that is connected to the proxy."""
    return next(
        one
        for one in machine.daemon.children(recursive=True)
        if any(socket.raddr and socket.raddr.port == proxy.port for socket in one.net_connections())
    )


@pytest.mark.parametrize("killed", ["worker", pytest.param("machine", marks=pytest.mark.long)])
def test_a_kill_in_the_middle_of_an_upload_leaves_no_half_object_and_one_result(
    fleet: Fleet, store: ObjectStore, bucket: Any, killed: str
) -> None:
    put_picture(bucket, "large.png", LARGE)
    with holding_proxy(store.port, PART, PASSED_BYTES) as proxy:
        address = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        behind = ObjectStore(store.folder, store.port, environment=store.environment | address)
        fleet.use_objects(behind)
        machine = fleet.start_machine(*OPTIONS).wait_ready()
        fleet.submit(job(store, "cut", "large.png"))
        proxy.wait_held()
        assert outputs(bucket) == []
        if killed == "worker":
            uploader(machine, proxy).kill()
        else:
            machine.kill()
            fleet.start_machine(*OPTIONS)
        proxy.cut()
        proxy.wait_held()  # the next attempt
        assert outputs(bucket) == []
        proxy.release()
        fleet.check_each_ends_once(["cut"])
    assert fleet.starts_of("cut") == (1 if killed == "worker" else 2)
    assert outputs(bucket) == ["out/cut.png"]
    check_output(bucket, "cut", LARGE)
