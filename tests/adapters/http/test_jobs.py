"""Jobs over HTTP, with a real daemon on the fake engine: submit, state, events, result, end."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from running_serve import RunningServe, running_serve
from waiting import wait_until


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with running_serve(tmp_path_factory.mktemp("data")) as running:
        yield running


def test_a_job_is_accepted_followed_and_its_result_fetched(serve: RunningServe) -> None:
    answer = serve.client.post(
        "/api/upscale/fake", data={"steps": "3", "output_text": "pixels", "label": "first"}
    )
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/api/jobs/{job['job_id']}" == job["status_url"]
    assert job["label"] == "first"
    events = serve.client.get(job["events_url"])
    assert events.headers["content-type"].startswith("text/event-stream")
    names = [line for line in events.text.splitlines() if line.startswith("event:")]
    assert names[-1] == "event: completed"
    assert events.text.rstrip().endswith("id: end")
    done = serve.client.get(job["status_url"]).json()
    assert (done["status"], done["progress"], done["file_size_bytes"]) == ("completed", 100, 6)
    assert serve.client.get(done["result_url"]).content == b"pixels"
    assert serve.client.get(f"/api/v1/download/{job['job_id']}").content == b"pixels"


def test_a_request_that_waits_has_the_ended_job(serve: RunningServe) -> None:
    answer = serve.client.post("/api/upscale/fake?wait=60", json={})
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def test_a_request_that_waits_for_a_job_that_fails_has_its_problem(serve: RunningServe) -> None:
    answer = serve.client.post("/api/upscale/fake?wait=60", json={"error_code": "input_unreadable"})
    assert answer.status_code == 422
    assert answer.json()["code"] == "input_unreadable"
    job = serve.client.get(f"/api/jobs/{answer.json()['job_id']}").json()
    assert (job["status"], job["code"]) == ("failed", "input_unreadable")


def test_the_time_of_a_wait_passes_and_the_job_continues(serve: RunningServe) -> None:
    answer = serve.client.post(
        "/api/upscale/fake", json={"hang": True}, headers={"Prefer": "wait=0.05"}
    )
    assert answer.status_code == 202
    job = answer.json()
    assert serve.client.post(job["cancel_url"]).status_code in (200, 202)
    assert serve.ended(job["job_id"])["status"] == "cancelled"
    assert serve.client.post(job["cancel_url"]).status_code == 200


@pytest.mark.parametrize("is_submit", [False, True], ids=["state", "submit"])
def test_a_client_that_leaves_ends_its_wait_and_not_its_job(
    serve: RunningServe, is_submit: bool
) -> None:
    fields: dict[str, Any] = {"steps": 600, "step_s": 0.1}
    target = "/api/upscale/fake" if is_submit else serve.submit(**fields)["status_url"]
    body = json.dumps(fields) if is_submit else ""
    request = f"{'POST' if is_submit else 'GET'} {target}?wait=300 HTTP/1.1\r\nHost: localhost\r\n"
    request += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"

    def waits() -> int:
        return sum("run_asgi" in str(task.get_coro()) for task in asyncio.all_tasks())

    url = httpx2.URL(serve.url)
    with socket.create_connection((url.host, url.port or 80)) as client:
        client.sendall(request.encode())
        wait_until(lambda: serve.run(waits), "the wait")
    wait_until(lambda: not serve.run(waits), "the end of the wait")
    (job,) = serve.run(serve.service.jobs.records)
    assert not job.has_ended
    serve.client.post(f"/api/jobs/{job.job_id}/cancel")
    assert serve.ended(job.job_id)["status"] == "cancelled"


def test_a_job_in_the_queue_is_told_that_it_moves_up(serve: RunningServe) -> None:
    jobs = [serve.submit(steps=6000, step_s=0.1) for _ in range(6)]
    places = []
    with serve.client.stream("GET", jobs[-1]["events_url"]) as events:
        for line in events.iter_lines():
            if line.startswith("data:"):
                places.append(json.loads(line.removeprefix("data:")).get("position"))
                if len(places) == 1:
                    for one in jobs[1:-1]:
                        serve.client.post(one["cancel_url"])
                elif places[-1] in (0, None):
                    break
    assert places[0] > 0
    assert places[-1] == 0
    for one in jobs:
        serve.client.post(one["cancel_url"])
        serve.ended(one["job_id"])


def test_jobs_of_a_higher_priority_start_first_and_the_others_are_told(serve: RunningServe) -> None:
    # One runs, and the worker has a second one already.
    held = [serve.submit(hang=True, steps=2, at_step=1) for _ in range(2)]
    first = held[0]["status_url"]
    wait_until(lambda: serve.client.get(first).json()["status"] == "processing", "the first job")
    low = serve.submit(priority=-1)["job_id"]
    plain = serve.client.post("/api/upscale/fake", data={"steps": "1"}).json()["job_id"]
    high = serve.client.post("/api/upscale/fake", data={"priority": "10"}).json()["job_id"]
    listed = serve.client.get("/api/jobs", params={"status": "queued"}).json()["jobs"]
    places = {job["job_id"]: job["position"] for job in listed}
    assert places[high] < places[plain] < places[low]
    for one in (high, plain, low):
        assert serve.client.get(f"/api/jobs/{one}").json()["position"] == places[one]
    for one in held:
        serve.client.post(one["cancel_url"])
    ends = [serve.ended(one)["finished_at"] for one in (high, plain, low)]
    assert ends == sorted(ends)


def test_a_deleted_job_is_gone_at_once_and_its_files_with_its_end(serve: RunningServe) -> None:
    done = serve.ended(serve.submit(output_text="x")["job_id"])
    running = serve.submit(hang=True)
    for job in (done, running):
        assert serve.client.delete(job["status_url"]).status_code == 204
        assert serve.client.get(job["status_url"]).status_code == 404
    assert not serve.service.storage.result(f"{done['job_id']}.txt").exists()


def fields_of(answer: Any) -> list[str]:
    return [error["field"] for error in answer.json()["errors"]]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"stepps": 1}, "stepps"),
        ({"steps": "two"}, "steps"),
        ({"steps": -1}, "steps"),
        ({"output_path": "/tmp/x"}, "output_path"),
        ({"label": "x" * 101}, "label"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"retention": "for ever"}, "retention"),
    ],
)
def test_a_bad_field_is_named(serve: RunningServe, fields: dict[str, Any], field: str) -> None:
    answer = serve.client.post("/api/upscale/fake", json=fields)
    assert answer.status_code == 400
    assert fields_of(answer) == [field]


def test_the_metrics_count_jobs_by_outcome_and_show_the_workers(serve: RunningServe) -> None:
    def value(family: str) -> float:
        lines = serve.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(family))

    completed = 'upscaled_jobs_total{method="fake",outcome="completed"}'
    failed = 'upscaled_jobs_total{method="fake",outcome="input_unreadable"}'
    restarts = 'upscaled_worker_restarts_total{reason="signal"}'
    before = [value(family) for family in (completed, failed, restarts)]
    serve.ended(serve.submit(output_text="x")["job_id"])
    serve.ended(serve.submit(error_code="input_unreadable")["job_id"])
    serve.ended(serve.submit(signal=9, only_on_attempt=1)["job_id"])
    after = [value(family) for family in (completed, failed, restarts)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [2, 1, 1]
    assert value('upscaled_job_duration_seconds_count{method="fake"}') >= 2
    assert value("upscaled_storage_bytes") > 0
    assert value("upscaled_queue_size") == value("upscaled_jobs_in_flight") == 0
    assert value("upscaled_daemon_restarts_total") == 0
    wait_until(lambda: value('upscaled_worker_up{worker="0"}') == 1, "the worker's readiness")
    assert value('upscaled_worker_resident_memory_bytes{worker="0"}') > 1e6
