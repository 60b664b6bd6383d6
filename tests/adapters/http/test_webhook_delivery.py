"""Webhooks of a real server: from the field of a submit to a receiver that runs here."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from running_serve import RunningServe, running_serve
from upscaled_http.config import Settings
from upscaled_http.daemoncommand import daemon_environment
from upscaled_http.problems import ProblemError
from upscaled_http.submission import SubmissionReader
from waiting import wait_until
from webhook_receiver import SECRET, Receiver, receiving


def webhooks(*receivers: Receiver) -> dict[str, Any]:
    return {"secret": SECRET, "allow_hosts": tuple(receiver.host for receiver in receivers)}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def dead() -> Iterator[Receiver]:
    with receiving() as running:
        running.answers.clear()
        yield running


@pytest.fixture(scope="module")
def serve(
    tmp_path_factory: pytest.TempPathFactory, receiver: Receiver, dead: Receiver
) -> Iterator[RunningServe]:
    folder = tmp_path_factory.mktemp("data")
    with running_serve(folder, webhooks=webhooks(receiver, dead)) as running:
        yield running


def test_each_end_of_a_job_is_sent_once(serve: RunningServe, receiver: Receiver) -> None:
    done = serve.submit(webhook=receiver.url(), output_text="x", label="mine")
    event = receiver.next()
    job = serve.ended(done["job_id"])
    assert (event["type"], event["timestamp"]) == ("job.completed", job["finished_at"])
    assert event["data"] == job
    assert receiver.ids.count(done["job_id"]) == 1
    failed = serve.submit(webhook=receiver.url(), error_code="input_unreadable")
    event = receiver.next()
    assert (event["type"], event["data"]["code"]) == ("job.failed", "input_unreadable")
    assert event["data"]["job_id"] == failed["job_id"]
    stopped = serve.submit(webhook=receiver.url(), hang=True)
    serve.client.post(stopped["cancel_url"])
    event = receiver.next()
    assert (event["type"], event["data"]["job_id"]) == ("job.cancelled", stopped["job_id"])
    assert receiver.events.empty()


def test_webhooks_are_counted(serve: RunningServe, receiver: Receiver, dead: Receiver) -> None:
    def counted(name: str) -> float:
        (line,) = (
            line
            for line in serve.client.get("/metrics").text.splitlines()
            if line.startswith(name + " ")
        )
        return float(line.split()[-1])

    delivered = 'upscaled_webhook_attempts_total{outcome="delivered"}'
    before = counted(delivered)
    serve.submit(webhook=receiver.url())
    receiver.next()
    wait_until(lambda: counted(delivered) > before, "the count")
    serve.ended(serve.submit(webhook=dead.url())["job_id"])
    assert counted("upscaled_webhooks_pending") >= 1
    assert counted('upscaled_webhook_attempts_total{outcome="given_up"}') == 0


def test_the_document_has_what_a_receiver_gets(serve: RunningServe) -> None:
    document = serve.client.get("/openapi.json").json()
    sent = document["webhooks"]["job-ended"]["post"]
    schema = sent["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/WebhookEvent"}
    names = [parameter["name"] for parameter in sent["parameters"]]
    assert names == ["webhook-id", "webhook-timestamp", "webhook-signature"]
    assert not [path for path in document["paths"] if "webhook" in path or "job-ended" in path]


def test_a_form_has_the_field_too(serve: RunningServe, receiver: Receiver) -> None:
    answer = serve.client.post("/api/upscale/fake", data={"webhook": receiver.url("/form")})
    assert answer.status_code == 202
    assert receiver.next()["data"]["job_id"] == answer.json()["job_id"]


def test_no_answer_shows_the_webhook_of_a_job(serve: RunningServe, receiver: Receiver) -> None:
    job = serve.submit(webhook=receiver.url("/hook?token=hush"))
    body = receiver.next()
    assert "hush" not in str(body)
    assert "hush" not in serve.client.get(job["status_url"]).text
    assert "hush" not in serve.client.get("/api/jobs").text


def test_a_silent_receiver_delays_no_job_no_cancel_no_health_and_no_other_receiver(
    serve: RunningServe, receiver: Receiver, dead: Receiver
) -> None:
    for _ in range(4):
        job = serve.submit(webhook=dead.url())
        assert serve.ended(job["job_id"])["status"] == "completed"
    dead.next()
    dead.next()  # two at once are being sent
    running = serve.submit(webhook=dead.url(), hang=True)
    assert serve.client.post(running["cancel_url"]).status_code in (200, 202)
    assert serve.ended(running["job_id"])["status"] == "cancelled"
    assert serve.client.get("/api/health").json()["status"] == "ok"
    other = serve.submit(webhook=receiver.url())
    assert receiver.next()["data"]["job_id"] == other["job_id"]


def test_a_job_that_is_deleted_while_it_runs_sends_no_webhook(
    serve: RunningServe, receiver: Receiver
) -> None:
    deleted = serve.submit(webhook=receiver.url(), hang=True)
    assert serve.client.delete(deleted["status_url"]).status_code == 204
    wait_until(lambda: serve.service.jobs.find(deleted["job_id"]) is None, "the job's end")
    kept = serve.submit(webhook=receiver.url())
    assert receiver.next()["data"]["job_id"] == kept["job_id"]
    assert receiver.events.empty()


def test_a_job_that_is_deleted_takes_its_waiting_webhook_along(
    serve: RunningServe, dead: Receiver
) -> None:
    job = serve.submit(webhook=dead.url())
    serve.ended(job["job_id"])
    with closing(sqlite3.connect(serve.service.storage.registry)) as registry:
        query = "SELECT count(*) FROM deliveries WHERE job_id = ?"
        assert registry.execute(query, (job["job_id"],)).fetchone() == (1,)
        assert serve.client.delete(job["status_url"]).status_code == 204
        assert registry.execute(query, (job["job_id"],)).fetchone() == (0,)


def problem_of(webhook: object, **section: Any) -> ProblemError:
    settings = Settings.model_validate({"workers": {"methods": ("fake",)}, "webhooks": section})
    reader = SubmissionReader(settings)
    with pytest.raises(ProblemError) as caught:
        reader.read({"webhook": webhook}, "fake", is_text=False, has_upload=False)
    assert [error.field for error in caught.value.problem.errors] == ["webhook"]
    return caught.value


@pytest.mark.parametrize(
    "webhook", ["", 7, ["http://a.example/"], "ftp://a.example/", "http://a b/"]
)
def test_a_webhook_that_is_no_url_is_refused(webhook: object) -> None:
    assert problem_of(webhook, secret=SECRET).status == 400


@pytest.mark.parametrize("host", ["127.0.0.1", "169.254.169.254", "[::1]"])
def test_a_private_address_is_refused_at_the_submit(host: str) -> None:
    problem = problem_of(f"http://{host}/hook?token=hush", secret=SECRET)
    assert (problem.status, problem.problem.code) == (403, "path_not_allowed")
    assert "hush" not in problem.detail


def test_a_host_that_is_not_listed_is_refused_at_the_submit() -> None:
    problem = problem_of("http://b.example/", secret=SECRET, allow_hosts=("a.example:80",))
    assert problem.detail == "webhook: b.example:80 is not one of the allowed hosts."


def test_without_a_secret_there_are_no_webhooks() -> None:
    problem = problem_of("http://a.example/")
    assert problem.status == 400
    assert "webhooks.secret is not set" in problem.detail


def test_the_daemon_does_not_get_the_servers_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPSCALED_WEBHOOKS_SECRET", "UPSCALED_AUTH_KEYS"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("MODEL_CACHE_DIR", "/models")
    environment = daemon_environment(Settings())
    assert SECRET not in environment.values()
    assert environment["MODEL_CACHE_DIR"] == "/models"


def test_the_daemon_of_a_queue_gets_what_it_sends_webhooks_with() -> None:
    queue = {"url": "redis://:password@h/0"}
    hosts = ("backend:3000", "127.0.0.1:9099")
    settings = Settings.model_validate(
        {"queue": queue, "webhooks": {"secret": SECRET, "allow_hosts": hosts}}
    )
    environment = daemon_environment(settings)
    assert environment["UPSCALED_WEBHOOKS_SECRET"] == SECRET
    assert environment["UPSCALED_WEBHOOKS_ALLOW_HOSTS"] == "backend:3000,127.0.0.1:9099"
