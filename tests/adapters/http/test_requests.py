"""Retries with an Idempotency-Key, several pictures at once, lists, streams, the queue's limit."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
from PIL import Image

from running_serve import RunningServe, running_serve
from waiting import wait_until

MAX_QUEUE = 12


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with running_serve(tmp_path_factory.mktemp("data"), limits={"max_queue": MAX_QUEUE}) as running:
        yield running


def png(colour: int = 0) -> bytes:
    data = io.BytesIO()
    Image.new("L", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


def post(serve: RunningServe, key: str, picture: bytes | None = None, **fields: str) -> Any:
    files = {"image": ("a.png", picture)} if picture is not None else None
    return serve.client.post(
        "/api/upscale/fake",
        data=fields or None,
        files=files,
        headers={"Idempotency-Key": key},
    )


def test_the_same_request_with_the_same_key_is_one_job(serve: RunningServe) -> None:
    first = post(serve, "one", png(), label="a")
    again = post(serve, '"one"', png(), label="a")
    assert first.status_code == again.status_code == 202
    assert first.json()["job_id"] == again.json()["job_id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert list(serve.service.storage.incoming.iterdir()) == []


def test_a_key_with_another_request_is_refused(serve: RunningServe) -> None:
    post(serve, "two", png(), label="a")
    for other in (post(serve, "two", png(1), label="a"), post(serve, "two", png(), label="b")):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_the_same_key_at_the_same_time_is_one_job(serve: RunningServe) -> None:
    start = threading.Barrier(4)

    def submit(_: int) -> str:
        start.wait(30)
        with httpx2.Client(base_url=serve.url, trust_env=False, timeout=60) as client:
            answer = client.post(
                "/api/upscale/fake", json={"label": "race"}, headers={"Idempotency-Key": "three"}
            )
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    with ThreadPoolExecutor(4) as threads:
        assert len(set(threads.map(submit, range(4)))) == 1
    assert len(serve.client.get("/api/jobs", params={"label": "race"}).json()["jobs"]) == 1


def test_a_key_of_a_refused_request_may_be_used_again(serve: RunningServe) -> None:
    assert post(serve, "four", b"no picture").status_code == 415
    assert post(serve, "four", png()).status_code == 202


@pytest.mark.parametrize("key", ["", '""', "x" * 256])
def test_a_key_that_is_none_is_refused(serve: RunningServe, key: str) -> None:
    assert post(serve, key, png()).status_code == 400


# --- several pictures -----------------------------------------------------------------------------


def post_batch(serve: RunningServe, files: list[tuple[str, bytes]], **more: Any) -> Any:
    return serve.client.post(
        "/api/batches",
        data={"method": "fake", "output_text": "x", "label": "batch"},
        files=[("image", file) for file in files],
        **more,
    )


def test_several_pictures_are_one_batch_and_one_zip(serve: RunningServe) -> None:
    answer = post_batch(serve, [("a.png", png()), ("b.txt", b"no picture"), ("c.png", png(3))])
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert [job["name"] for job in batch["jobs"]] == ["a.png", "c.png"]
    assert [(one["name"], one["code"]) for one in batch["refused"]] == [
        ("b.txt", "unsupported_format")
    ]
    for job in batch["jobs"]:
        assert serve.ended(job["job_id"])["batch_id"] == batch["batch_id"]
    shown = serve.client.get(answer.headers["location"]).json()
    assert [job["status"] for job in shown["jobs"]] == ["completed"] * 2
    listed = serve.client.get("/api/jobs", params={"batch_id": batch["batch_id"]}).json()
    assert len(listed["jobs"]) == 2
    archive = zipfile.ZipFile(io.BytesIO(serve.client.get(batch["results_url"]).content))
    assert archive.namelist() == ["a_fake.txt", "c_fake.txt"]


def test_a_batch_of_which_nothing_is_accepted_is_a_problem(serve: RunningServe) -> None:
    answer = post_batch(serve, [("a.txt", b"no picture"), ("b.txt", b"none")])
    assert (answer.status_code, answer.json()["name"]) == (415, "a.txt")
    assert post_batch(serve, []).status_code == 400


def test_a_repeated_batch_makes_the_jobs_that_it_lacks(serve: RunningServe) -> None:
    headers = {"Idempotency-Key": "repeated"}
    files = [("a.png", png()), ("b.txt", b"no picture"), ("c.png", png(3))]
    first, again = (post_batch(serve, files, headers=headers).json() for _ in range(2))
    assert [job["job_id"] for job in again["jobs"]] == [job["job_id"] for job in first["jobs"]]
    assert again["refused"] == first["refused"] != []
    # As if the server had been killed before it made the second job.
    lost = first["jobs"][1]
    serve.ended(lost["job_id"])
    serve.client.delete(lost["status_url"])
    third = post_batch(serve, files, headers=headers).json()
    assert [job["name"] for job in third["jobs"]] == ["a.png", "c.png"]


def test_a_batch_with_a_key_is_one_batch(serve: RunningServe) -> None:
    headers = {"Idempotency-Key": "batch"}
    files = [("a.png", png()), ("b.png", png(1))]
    first, again = (post_batch(serve, files, headers=headers) for _ in range(2))
    assert first.json()["batch_id"] == again.json()["batch_id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert post_batch(serve, files[:1], headers=headers).status_code == 422


# --- lists and streams ----------------------------------------------------------------------------


def test_a_list_has_the_newest_first_and_continues_page_by_page(serve: RunningServe) -> None:
    ids = [serve.submit(label="page")["job_id"] for _ in range(5)]
    for job_id in ids:
        serve.ended(job_id)
    found: list[str] = []
    params: dict[str, Any] = {"label": "page", "limit": 2, "status": "completed"}
    while True:
        page = serve.client.get("/api/jobs", params=params).json()
        found += [job["job_id"] for job in page["jobs"]]
        if "next" not in page:
            break
        params["before"] = page["next"]
    assert found == ids[::-1]


def test_open_jobs_are_listed_by_what_they_are_now(serve: RunningServe) -> None:
    job = serve.submit(label="open", steps=3, at_step=2, hang=True)
    with serve.client.stream("GET", job["events_url"]) as events:
        next(line for line in events.iter_lines() if line == "event: progress")
    for status, count in (("processing", 1), ("queued", 0), ("completed", 0)):
        params = {"label": "open", "status": status}
        assert len(serve.client.get("/api/jobs", params=params).json()["jobs"]) == count
    serve.client.delete(job["status_url"])
    assert serve.client.get("/api/jobs", params={"label": "open"}).json()["jobs"] == []


@pytest.mark.parametrize("params", [{"limit": 0}, {"limit": 501}, {"status": "done"}])
def test_a_list_of_something_else_is_refused(serve: RunningServe, params: Any) -> None:
    answer = serve.client.get("/api/jobs", params=params)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


def test_a_stream_that_was_read_to_its_end_is_not_sent_again(serve: RunningServe) -> None:
    job = serve.ended(serve.submit()["job_id"])
    again = serve.client.get(job["events_url"], headers={"Last-Event-ID": "end"})
    assert (again.status_code, again.content) == (204, b"")


def test_one_stream_has_all_jobs(serve: RunningServe) -> None:
    before = serve.submit(hang=True)["job_id"]
    seen: dict[str, str] = {}
    with serve.client.stream("GET", "/api/events") as events:
        lines = events.iter_lines()
        later: str | None = None
        for line in lines:
            if not line.startswith("data: "):
                continue
            job = json.loads(line.removeprefix("data: "))
            seen[job["job_id"]] = job["status"]
            if later is None and before in seen:
                with httpx2.Client(base_url=serve.url, trust_env=False) as client:
                    later = str(client.post("/api/upscale/fake", json={}).json()["job_id"])
                    client.post(f"/api/jobs/{before}/cancel")
            if later and seen.get(later) == "completed" and seen.get(before) == "cancelled":
                break
        else:
            pytest.fail(f"the stream ended before the jobs did: {seen}")


def test_past_the_queues_limit_a_submit_is_refused(serve: RunningServe) -> None:
    jobs = [serve.submit(hang=True) for _ in range(MAX_QUEUE)]
    # Those that have started meanwhile do not count.
    assert all(job["position"] <= before for before, job in enumerate(jobs))
    assert jobs[-1]["position"] > 0
    answer = serve.client.post("/api/upscale/fake", json={})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert answer.headers["retry-after"].isdecimal()
    assert serve.client.get("/api/health/ready").status_code == 503
    for job in jobs:
        serve.client.delete(job["status_url"])
    # Each of them takes its place until it has ended.
    wait_until(
        lambda: serve.client.get("/api/health").json()["in_flight"] == 0, "the deleted jobs' ends"
    )
