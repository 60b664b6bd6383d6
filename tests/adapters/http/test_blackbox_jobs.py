"""Jobs over HTTP, as a client of `upscaled serve` sees them: a process, a real daemon, pictures."""

from __future__ import annotations

import base64
import concurrent.futures
import re
import zipfile
from collections.abc import Iterator
from datetime import datetime
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from serve_process import ServeProcess, picture, serve_process
from upscaled_protocol.errors import ErrorCode
from waiting import wait_until

# The specification's table of codes and statuses.
STATUSES = {
    400: "invalid_json invalid_job model_not_found",
    403: "path_not_allowed",
    404: "unknown_method",
    409: "duplicate_job cancelled",
    413: "input_too_large line_too_long",
    415: "unsupported_format",
    422: "input_unreadable input_not_found upstream_filtered",
    429: "queue_full",
    500: "internal model_corrupt model_unsafe poisoned",
    502: "upstream_auth upstream_unavailable",
    503: "out_of_memory stalled worker_crashed upstream_quota storage_unavailable shutting_down",
    504: "deadline_exceeded",
    507: "output_unwritable journal_unwritable",
}
STATUS_OF = {code: status for status, codes in STATUSES.items() for code in codes.split()}


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    folder = tmp_path_factory.mktemp("data")
    with serve_process(folder, UPSCALED_STORAGE_DOWNLOAD_GRACE_S="0") as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def done(serve: ServeProcess) -> dict[str, Any]:
    """A completed job with a picture."""
    return upscaled(serve, name="my photo.png")


def upscaled(serve: ServeProcess, name: str = "a.png", **fields: str) -> dict[str, Any]:
    answer = serve.client.post(
        "/api/upscale/esrgan", files={"image": (name, picture())}, data=fields
    )
    job = serve.ended(serve.accepted(answer)["job_id"])
    assert job["status"] == "completed", job
    return job


def opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data))


# --- submit -------------------------------------------------------------------------------------


def test_the_answer_to_a_submit_has_addresses_times_and_sizes(serve: ServeProcess) -> None:
    answer = serve.client.post(
        "/api/upscale",
        files={"file": ("photo.png", picture(12, 8))},
        data={"scale": "2", "label": "mine"},
    )
    job = serve.accepted(answer)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}", job["job_id"])
    assert answer.headers["location"] == job["status_url"] == f"/api/jobs/{job['job_id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (job["method"], job["label"], job["name"]) == ("esrgan", "mine", "photo.png")
    assert job["input_size"] == {"width": 12, "height": 8}
    assert job["output_size"] == {"width": 24, "height": 16}
    assert job["created_at"].endswith("Z")
    assert datetime.fromisoformat(job["created_at"]).utcoffset() is not None
    assert serve.ended(job["job_id"])["output_size"] == {"width": 24, "height": 16}


@pytest.mark.parametrize(
    ("fields", "size", "kind"),
    [
        ({"scale": "3"}, (36, 24), "PNG"),
        ({"upscale_factor": "1.5", "format": "jpg"}, (18, 12), "JPEG"),
        ({"output_format": "webp", "quality": "80"}, (48, 32), "WEBP"),
        ({"model_name": "compact-x4", "tile_size": "0"}, (48, 32), "PNG"),
        ({"target_width": "30"}, (30, 20), "PNG"),
    ],
)
def test_a_result_has_the_size_and_the_kind_that_were_asked_for(
    serve: ServeProcess, fields: dict[str, str], size: tuple[int, int], kind: str
) -> None:
    job = upscaled(serve, **fields)
    result = serve.client.get(job["result_url"])
    assert (opened(result.content).size, opened(result.content).format) == (size, kind)
    assert result.headers["content-type"] == job["media_type"] == f"image/{kind.lower()}"
    assert len(result.content) == job["file_size_bytes"]


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
def test_a_picture_comes_in_base64_too(serve: ServeProcess, prefix: str) -> None:
    text = prefix + base64.b64encode(picture(12, 8)).decode()
    job = serve.submit("esrgan", image_base64=text, upscale_factor=2)
    assert job["input_size"] == {"width": 12, "height": 8}
    assert serve.ended(job["job_id"])["output_size"] == {"width": 24, "height": 16}


@pytest.mark.parametrize(
    ("target", "headers"),
    [("/api/upscale/esrgan?wait=60", {}), ("/api/upscale/esrgan", {"Prefer": "wait=60"})],
)
def test_a_submit_that_waits_answers_with_the_ended_job(
    serve: ServeProcess, target: str, headers: dict[str, str]
) -> None:
    answer = serve.client.post(target, files={"image": picture()}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")


def test_a_submit_that_waits_answers_with_the_picture_if_it_is_asked_for(
    serve: ServeProcess,
) -> None:
    answer = serve.client.post(
        "/api/upscale/esrgan?wait=60", files={"image": picture()}, headers={"Accept": "image/*"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert opened(answer.content).size == (48, 32)


@pytest.mark.parametrize(
    ("accept", "fields", "kind"),
    [("image/jpeg", {}, "image/jpeg"), ("image/jpeg", {"format": "webp"}, "image/webp")],
)
def test_the_picture_that_is_asked_for_has_the_format_of_accept_unless_a_field_names_one(
    serve: ServeProcess, accept: str, fields: dict[str, str], kind: str
) -> None:
    answer = serve.client.post(
        "/api/upscale?wait=60", files={"image": picture()}, data=fields, headers={"Accept": accept}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert f"image/{opened(answer.content).format}".lower() == kind


def test_a_picture_that_cannot_be_written_is_refused_before_the_job(serve: ServeProcess) -> None:
    known = serve.client.get("/api/jobs").json()["jobs"]
    answer = serve.client.post(
        "/api/upscale?wait=60", files={"image": picture()}, headers={"Accept": "image/gif"}
    )
    assert (answer.status_code, answer.json()["code"]) == (406, "not_acceptable")
    assert serve.client.get("/api/jobs").json()["jobs"] == known


@pytest.mark.parametrize("code", list(ErrorCode))
def test_each_code_has_its_status(serve: ServeProcess, code: ErrorCode) -> None:
    answer = serve.client.post("/api/upscale/fake?wait=60", json={"error_code": code})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (STATUS_OF[code], code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["status"] == answer.status_code
    assert problem["detail"].endswith(".")
    assert serve.job(problem["job_id"])["code"] == code


def test_an_exception_in_a_worker_shows_no_traceback_and_no_path(serve: ServeProcess) -> None:
    answer = serve.client.post("/api/upscale/fake?wait=60", json={"raise_text": "/etc/secret"})
    job = serve.client.get(f"/api/jobs/{answer.json()['job_id']}")
    for text in (answer.text, job.text):
        assert "Traceback" not in text
        assert str(serve.data_dir) not in text
        assert ".py" not in text


# --- idempotency --------------------------------------------------------------------------------


def test_a_request_that_is_sent_again_with_its_key_is_the_same_job(serve: ServeProcess) -> None:
    headers = {"Idempotency-Key": '"once"'}

    def send(data: bytes) -> Any:
        return serve.client.post(
            "/api/upscale/esrgan", files={"image": ("a.png", data)}, headers=headers
        )

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, [picture()] * 4))
    assert [answer.status_code for answer in answers] == [202] * 4
    assert len({answer.json()["job_id"] for answer in answers}) == 1
    replayed = [answer.headers.get("idempotency-replayed") for answer in answers]
    assert sorted(map(str, replayed)) == ["None", "true", "true", "true"]
    other = send(picture(13, 8))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


# --- results ------------------------------------------------------------------------------------


def test_a_result_can_do_no_harm_in_a_browser(serve: ServeProcess, done: dict[str, Any]) -> None:
    headers = serve.client.get(done["result_url"]).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].startswith("sandbox")
    assert 'filename="my photo_esrgan.png"' in headers["content-disposition"]


def test_a_result_is_sent_in_parts(serve: ServeProcess, done: dict[str, Any]) -> None:
    url = done["result_url"]
    whole = serve.client.get(url)
    assert whole.headers["accept-ranges"] == "bytes"
    etag, content = whole.headers["etag"], whole.content

    def get(**headers: str) -> Any:
        return serve.client.get(
            url, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )

    part = get(Range="bytes=2-9")
    assert (part.status_code, part.content) == (206, content[2:10])
    assert part.headers["content-range"] == f"bytes 2-9/{len(content)}"
    assert get(Range="bytes=-5").content == content[-5:]
    assert get(Range="bytes=2-9", If_Range=etag).status_code == 206
    assert get(Range="bytes=2-9", If_Range='"other"').content == content
    assert get(Range=f"bytes={len(content)}-").status_code == 416
    assert get(If_None_Match=etag).status_code == 304


def test_results_come_under_their_other_names(serve: ServeProcess, done: dict[str, Any]) -> None:
    content = serve.client.get(done["result_url"]).content
    for path in (
        f"/api/results/{done['job_id']}",
        f"/api/v1/results/{done['job_id']}.png",
        f"/api/v1/download/{done['job_id']}",
    ):
        assert serve.client.get(path).content == content
    answer = serve.client.get(done["result_url"], params={"encoding": "base64"}).json()
    assert answer["media_type"] == "image/png"
    assert base64.b64decode(answer["image_base64"]) == content


def test_several_results_come_in_one_zip(serve: ServeProcess, done: dict[str, Any]) -> None:
    jobs = [done, upscaled(serve, name="my photo.png")]
    answer = serve.client.get("/api/results.zip", params={"job_id": [j["job_id"] for j in jobs]})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/zip")
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert len(set(archive.namelist())) == 2
        assert all(opened(archive.read(name)).size == (48, 32) for name in archive.namelist())


def test_the_reasons_for_a_missing_result_are_distinguished(serve: ServeProcess) -> None:
    job = serve.submit(hang=True, output_text="x")
    answer = serve.client.get(f"/api/results/{job['job_id']}")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_finished")
    serve.client.delete(job["status_url"])
    assert serve.client.get("/api/results/unknown").status_code == 404


def test_a_batch_without_any_result_is_not_asked_for_again(serve: ServeProcess) -> None:
    """The header of a torn picture is read. Its job fails."""
    torn = picture(200, 200)[:-40]
    batch = serve.client.post("/api/batches", files={"image": ("a.png", torn)}).json()
    for job in batch["jobs"]:
        serve.client.get(job["status_url"], params={"wait": 60})
    answer = serve.client.get(batch["results_url"])
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert answer.json()["retryable"] is False


# --- state --------------------------------------------------------------------------------------


def test_a_job_has_the_same_state_under_its_other_names(
    serve: ServeProcess, done: dict[str, Any]
) -> None:
    for path in ("/api/status/", "/api/v1/jobs/", "/api/v1/status/"):
        assert serve.client.get(path + done["job_id"]).json() == done


def test_jobs_are_listed_newest_first_in_pages(serve: ServeProcess) -> None:
    ids = [serve.submit(label="listed")["job_id"] for _ in range(3)]
    for job_id in ids:
        serve.ended(job_id)
    first = serve.client.get("/api/jobs", params={"label": "listed", "limit": 2}).json()
    assert [job["job_id"] for job in first["jobs"]] == [ids[2], ids[1]]
    rest = serve.client.get("/api/jobs", params={"label": "listed", "before": first["next"]}).json()
    assert [job["job_id"] for job in rest["jobs"]] == [ids[0]]
    assert rest.get("next") is None
    failed = serve.client.get("/api/jobs", params={"label": "listed", "status": "failed"}).json()
    assert failed["jobs"] == []


def test_a_cancel_ends_a_job_and_harms_no_finished_one(serve: ServeProcess) -> None:
    job = serve.submit(hang=True)
    assert serve.client.post(job["cancel_url"]).status_code in (200, 202)
    ended = serve.ended(job["job_id"])
    assert (ended["status"], ended["code"]) == ("cancelled", "cancelled")
    assert serve.client.post(job["cancel_url"]).status_code == 200


def test_a_deleted_job_leaves_neither_record_nor_file(serve: ServeProcess) -> None:
    job = upscaled(serve)
    assert any(job["job_id"] in path for path in serve.files())
    assert serve.client.delete(job["status_url"]).status_code == 204
    assert serve.client.get(job["status_url"]).status_code == 404
    assert not any(job["job_id"] in path for path in serve.files())


def test_a_picture_is_removed_after_its_download_if_the_job_asks_for_it(
    serve: ServeProcess,
) -> None:
    job = upscaled(serve, retention="delete_after_download")
    url = job["result_url"]
    assert serve.client.head(url).status_code == 200
    assert serve.client.get(url, headers={"Range": "bytes=0-9"}).status_code == 206
    assert serve.job(job["job_id"])["expires_at"] == job["expires_at"]
    assert serve.client.get(url).status_code == 200
    left = serve.wait_for(
        job["job_id"], lambda now: now.get("expires_at") != job["expires_at"], "its end"
    )
    assert left["status"] == "completed"
    wait_until(lambda: serve.client.get(url).status_code == 410, "the removal of the picture")
    assert serve.client.get(url).json()["code"] == "result_gone"
    assert not any(job["job_id"] in path for path in serve.files())


# --- events -------------------------------------------------------------------------------------


def events_of(text: str) -> list[str]:
    return re.findall(r"^event: (\w+)$", text, re.MULTILINE)


def test_a_jobs_events_end_with_its_end(serve: ServeProcess) -> None:
    job = serve.submit(steps=3)
    answer = serve.client.get(job["events_url"])
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events_of(answer.text)[-1] == "completed"
    assert answer.text.rstrip().endswith("id: end")
    assert events_of(serve.client.get(job["events_url"]).text) == ["completed"]
    again = serve.client.get(job["events_url"], headers={"Last-Event-ID": "end"})
    assert again.status_code == 204


def test_the_first_event_comes_at_once(serve: ServeProcess) -> None:
    job = serve.submit(hang=True)
    with serve.client.stream("GET", job["events_url"]) as stream:
        lines = stream.iter_lines()
        assert next(lines) in ("event: queued", "event: progress")
        serve.client.post(job["cancel_url"])
        assert "event: cancelled" in list(lines)


def test_one_stream_has_the_news_of_all_jobs(serve: ServeProcess) -> None:
    with serve.client.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        job = serve.submit()
        ends = ('"status":"completed"', job["job_id"])
        assert any(all(part in line for part in ends) for line in lines)
        serve.client.delete(job["status_url"])
        assert "event: removed" in lines
        assert next(lines) == f'data: {{"job_id":"{job["job_id"]}"}}'


def test_the_stream_of_all_jobs_tells_that_a_running_job_was_deleted(serve: ServeProcess) -> None:
    job = serve.submit(hang=True)
    with serve.client.stream("GET", "/api/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        serve.client.delete(job["status_url"])
        assert "event: removed" in lines
        assert next(lines) == f'data: {{"job_id":"{job["job_id"]}"}}'


# --- the server ---------------------------------------------------------------------------------


def test_models_are_listed_with_what_a_person_chooses_by(serve: ServeProcess) -> None:
    models = {model["name"]: model for model in serve.client.get("/api/models").json()["models"]}
    model = models["compact-x4"]
    assert (model["method"], model["scale"], model["installed"]) == ("esrgan", 4, True)
    assert model["licence"]
    assert model["description"]


def test_health_shows_limits_and_the_queue(serve: ServeProcess) -> None:
    health = serve.client.get("/api/health").json()
    assert health["status"] in ("ok", "degraded")
    assert {"queue_size", "in_flight", "models_loaded", "version", "uptime_s"} <= health.keys()
    assert health["limits"]["max_request_mb"] == 100
    assert health["daemon_restarts"] == 0
    assert serve.client.get("/api/health/live").status_code == 200


def test_stats_count_jobs_by_method_and_outcome(serve: ServeProcess) -> None:
    before = serve.client.get("/api/stats").json()["methods"].get("fake", {}).get("failed", 0)
    serve.client.post("/api/upscale/fake?wait=60", json={"error_code": "internal"})
    after = serve.client.get("/api/stats").json()
    assert after["methods"]["fake"]["failed"] == before + 1


GETS = [
    "/",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/api/health",
    "/api/health/live",
    "/api/health/ready",
    "/api/models",
    "/api/jobs",
    "/api/stats",
    "/api/v1/health",
]


@pytest.mark.parametrize("path", GETS)
def test_whatever_answers_get_answers_head(serve: ServeProcess, path: str) -> None:
    got, head = serve.client.get(path), serve.client.head(path)
    assert got.status_code == head.status_code == 200
    assert head.content == b""
    assert head.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/api/upscale", {"POST"}),
        ("PUT", "/api/jobs/x", {"GET", "DELETE", "HEAD"}),
        ("POST", "/api/health", {"GET", "HEAD"}),
    ],
)
def test_a_method_that_a_route_does_not_have_gets_those_it_has(
    serve: ServeProcess, method: str, path: str, allowed: set[str]
) -> None:
    answer = serve.client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    told = {one.strip() for one in answer.headers["allow"].split(",")}
    assert told - {"HEAD", "OPTIONS"} == allowed - {"HEAD"}


def test_metrics_name_routes_and_never_ids(serve: ServeProcess, done: dict[str, Any]) -> None:
    serve.client.get(done["status_url"])
    text = serve.client.get("/metrics").text
    assert 'route="/api/jobs/{job_id}"' in text
    assert done["job_id"] not in text
    for name in ("upscaled_http_request_duration_seconds", "upscaled_event_loop_lag_seconds"):
        assert name in text
