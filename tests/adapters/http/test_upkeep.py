"""What is removed in time, and what becomes of jobs if the registry or a message fails."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from running_serve import RunningServe, running_serve
from upscaled_http.problems import ProblemError

DAY_S = 86400.0


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServe]:
    with running_serve(tmp_path_factory.mktemp("data")) as running:
        yield running


def fail(*_: object) -> None:
    raise sqlite3.OperationalError("database or disk is full")


def test_a_result_goes_in_time_and_its_record_later(serve: RunningServe) -> None:
    job = serve.ended(serve.submit(output_text="pixels")["job_id"])
    remove_expired = serve.service.remove_expired
    serve.run(lambda: remove_expired(time.time() + 0.9 * DAY_S))
    assert serve.client.get(job["result_url"]).status_code == 200
    serve.run(lambda: remove_expired(time.time() + 1.1 * DAY_S))
    answer = serve.client.get(job["result_url"])
    assert (answer.status_code, answer.json()["code"]) == (410, "result_gone")
    assert not serve.service.storage.result(f"{job['job_id']}.txt").exists()
    serve.run(lambda: remove_expired(time.time() + 6.9 * DAY_S))
    assert serve.client.get(job["status_url"]).json()["status"] == "completed"
    serve.run(lambda: remove_expired(time.time() + 7.1 * DAY_S))
    assert serve.client.get(job["status_url"]).status_code == 404


def test_a_full_disk_keeps_no_end_from_its_client(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = serve.submit(steps=3, at_step=2, hang=True)
    with monkeypatch.context() as patch:
        patch.setattr(serve.service.registry, "update", fail)
        serve.client.post(job["cancel_url"])
        assert serve.ended(job["job_id"])["status"] == "cancelled"
        listed = serve.client.get("/api/jobs").json()["jobs"]
        assert [one["status"] for one in listed if one["job_id"] == job["job_id"]] == ["cancelled"]
    serve.run(lambda: serve.service.remove_expired(time.time()))
    assert serve.run(lambda: serve.service.jobs.unrecorded(job["job_id"])) is None
    assert serve.client.get(job["status_url"]).json()["status"] == "cancelled"


def test_a_job_that_is_deleted_before_its_end_is_recorded_stays_deleted(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[str] = []
    monkeypatch.setattr(
        serve.service.jobs, "on_recording_end", [lambda record: ends.append(record.job_id)]
    )
    job = serve.submit(steps=3, at_step=2, hang=True)
    with monkeypatch.context() as patch:
        patch.setattr(serve.service.registry, "update", fail)
        serve.client.post(job["cancel_url"])
        assert serve.ended(job["job_id"])["status"] == "cancelled"
        assert serve.client.delete(job["status_url"]).status_code == 204
        ends.clear()
        assert serve.client.get(job["status_url"]).status_code == 404
    serve.run(lambda: serve.service.remove_expired(time.time()))
    assert ends == [], "its webhook was recorded"
    assert serve.client.get(job["status_url"]).status_code == 404


def test_a_full_disk_refuses_a_submit_and_leaves_nothing(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.service.registry, "add", fail)
    answer = serve.client.post("/api/upscale/fake", json={}, headers={"Idempotency-Key": "full"})
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")
    assert len(serve.service.jobs) == 0
    monkeypatch.undo()
    again = serve.client.post("/api/upscale/fake", json={}, headers={"Idempotency-Key": "full"})
    assert again.status_code == 202


def test_a_registry_that_fails_is_reported_as_such(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.service.registry, "page", fail)
    answer = serve.client.get("/api/jobs")
    assert (answer.status_code, answer.json()["code"]) == (507, "insufficient_storage")


def test_a_message_that_cannot_be_handled_holds_up_no_end(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = serve.service.jobs
    handle = jobs.handle_message

    def handle_ends_alone(message: Any) -> None:
        if message.get("type") != "result":
            raise ValueError("a message of another shape")
        handle(message)

    monkeypatch.setattr(jobs, "handle_message", handle_ends_alone)
    assert serve.ended(serve.submit(steps=3)["job_id"])["status"] == "completed"


def test_no_request_waits_for_a_lost_end(
    serve: RunningServe, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = serve.service.jobs
    handle = jobs.handle_message
    lost = threading.Event()

    def lose_the_first_end(message: Any) -> None:
        if message.get("type") == "result" and not lost.is_set():
            lost.set()
            return
        handle(message)

    monkeypatch.setattr(jobs, "handle_message", lose_the_first_end)
    job = serve.submit()
    assert lost.wait(60)
    serve.run(lambda: jobs.ask_for_lost_ends(silent_s=0))
    assert serve.ended(job["job_id"])["status"] == "completed"


def test_a_job_is_another_owners_business_alone(serve: RunningServe) -> None:
    job = serve.submit(hang=True)
    for call in (serve.service.find, serve.service.cancel, serve.service.delete):
        with pytest.raises(ProblemError) as caught:
            serve.run(lambda call=call: call("stranger", job["job_id"]))  # type: ignore[misc]
        assert caught.value.status == 404
    assert serve.client.delete(job["status_url"]).status_code == 204
