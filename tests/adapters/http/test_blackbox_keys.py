"""A server with keys: what each key, and a client without one, may see and do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from serve_process import ServeProcess, code_of, serve_process
from waiting import wait_until

KEYS = {"alice": "alices-key-0123456789", "bob": "bobs-key-0123456789ab"}


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    """A server with keys, small in every way."""
    with serve_process(
        tmp_path_factory.mktemp("data"),
        UPSCALED_AUTH_KEYS=",".join(f"{name}:{key}" for name, key in KEYS.items()),
        UPSCALED_LIMITS_MAX_QUEUE="2",
        UPSCALED_LIMITS_RATE_PER_MINUTE="40",
        UPSCALED_SERVER_CORS_ORIGINS="https://app.example.com",
    ) as running:
        yield running


def key(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def test_without_a_key_nothing_is_shown_or_taken(locked: ServeProcess) -> None:
    for headers in ({}, {"X-API-Key": "guess"}, {"Authorization": "Bearer x"}):
        for path in ("/api/jobs", "/api/models", "/api/stats", "/api/events", "/metrics"):
            answer = locked.client.get(path, headers=headers)
            assert code_of(answer) == (401, "unauthorized")
            assert answer.headers["www-authenticate"] == "Bearer"
    assert code_of(locked.client.post("/api/upscale/fake", json={})) == (401, "unauthorized")
    for path in ("/api/health/live", "/api/health", "/openapi.json"):
        assert locked.client.get(path).status_code == 200
    assert locked.client.get("/api/health").json().get("workers") is None
    locked.wait_ready()
    assert locked.client.get("/api/health", headers=key("bob")).json()["workers"]


def test_a_job_belongs_to_its_key(locked: ServeProcess) -> None:
    answer = locked.client.post(
        "/api/upscale/fake?wait=60",
        json={"output_text": "alice's"},
        headers={"X-API-Key": KEYS["alice"]},
    )
    job = answer.json()
    for path in ("status_url", "events_url", "result_url"):
        assert code_of(locked.client.get(job[path], headers=key("bob"))) == (404, "not_found")
        assert locked.client.get(job[path], headers=key("alice")).status_code == 200
    assert locked.client.delete(job["status_url"], headers=key("bob")).status_code == 404
    assert locked.client.post(job["cancel_url"], headers=key("bob")).status_code == 404
    assert locked.client.get("/api/jobs", headers=key("bob")).json()["jobs"] == []
    hers = locked.client.get("/api/jobs", headers=key("alice")).json()["jobs"]
    assert job["job_id"] in [one["job_id"] for one in hers]


def test_only_the_named_origin_reads_answers_and_also_errors(locked: ServeProcess) -> None:
    for origin, shown in (("https://app.example.com", True), ("https://evil.example.com", False)):
        answer = locked.client.get("/api/jobs", headers={"Origin": origin})
        assert answer.status_code == 401
        assert ("access-control-allow-origin" in answer.headers) is shown


def test_a_full_queue_and_a_used_up_rate_say_when_to_come_again(locked: ServeProcess) -> None:
    jobs = [
        locked.accepted(
            locked.client.post("/api/upscale/fake", json={"hang": True}, headers=key("bob"))
        )
        for _ in range(2)
    ]
    answer = locked.client.post("/api/upscale/fake", json={}, headers=key("bob"))
    assert code_of(answer) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    for job in jobs:
        locked.client.delete(job["status_url"], headers=key("bob"))
    answers = [
        locked.client.post("/api/upscale/nothing", json={}, headers=key("bob")) for _ in range(40)
    ]
    limited = [one for one in answers if one.status_code == 429 and "rate" in one.json()["code"]]
    assert limited
    assert int(limited[0].headers["retry-after"]) > 0
    assert "r=0" in limited[0].headers["ratelimit"]
    # A job that is deleted takes its place until it has ended.
    wait_until(
        lambda: locked.client.get("/api/health", headers=key("bob")).json()["in_flight"] == 0,
        "the ends of the deleted jobs",
    )
    # The rate is each key's own.
    other = locked.client.post("/api/upscale/fake?wait=60", json={}, headers=key("alice"))
    assert other.status_code == 200


def test_no_key_is_in_any_log_or_answer(locked: ServeProcess) -> None:
    health = locked.client.get("/api/health", headers=key("alice")).text
    for text in KEYS.values():
        assert text.encode() not in locked.log
        assert text not in health
    wait_until(lambda: b'"key": "alice"' in locked.log, "the log's line")
