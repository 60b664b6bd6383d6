"""Clients of other upscaling services, by their own addresses and field names."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from serve_process import ServeProcess, code_of, picture, serve_process


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    with serve_process(tmp_path_factory.mktemp("data")) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    path.write_bytes(picture(16, 12))
    return path


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def size_of(data: bytes) -> tuple[int, int]:
    return Image.open(BytesIO(data)).size


# --- a plan with curl lines, a page and a script ----------


@pytest.mark.parametrize("field", ["image", "file"])
def test_the_plans_curl_lines(serve: ServeProcess, photo: Path, tmp_path: Path, field: str) -> None:
    submit = run(
        *("curl", "-fsS", "-X", "POST", f"{serve.url}/api/upscale/esrgan"),
        *("-F", f"{field}=@{photo}", "-F", "upscale_factor=2"),
    )
    found = re.search(r'"job_id":"([^"]+)"', submit)
    assert found is not None
    assert '"input_size":{"width":16,"height":12}' in submit
    assert '"output_size":{"width":32,"height":24}' in submit
    serve.ended(found[1])
    status = run("curl", "-fsS", f"{serve.url}/api/status/{found[1]}")
    assert '"status":"completed"' in status
    assert '"progress":100' in status
    output = tmp_path / "out.png"
    run("curl", "-fsS", "-o", str(output), f"{serve.url}/api/results/{found[1]}.png")
    assert size_of(output.read_bytes()) == (32, 24)
    run("curl", "-fsS", "-H", "X-API-Key: none is set", f"{serve.url}/api/health")


def test_the_plans_status_words_and_its_documents(serve: ServeProcess) -> None:
    job = serve.submit("fake", steps=2, at_step=1, hang=True)
    assert serve.running(job["job_id"])["status"] == "processing"
    serve.client.delete(job["status_url"])
    failed = serve.ended(serve.submit("fake", error_code="internal")["job_id"])
    assert failed["status"] == "failed"
    health = serve.client.get("/api/health").json()
    assert {"models_loaded", "queue_size"} <= health.keys()
    assert serve.client.get("/docs").status_code == 200


# --- a service with versioned routes ----------


def test_the_versioned_services_client(serve: ServeProcess, photo: Path) -> None:
    with photo.open("rb") as file:
        answer = serve.client.post(
            "/api/v1/upscale",
            files={"image": ("photo.png", file, "image/png")},
            data={
                "scale": "2",
                "model_name": "compact-x4",
                "tile_size": "0",
                "format": "jpg",
                "retention": "keep",
            },
        )
    job_id = serve.accepted(answer)["job_id"]
    serve.ended(job_id)
    status = serve.client.get(f"/api/v1/status/{job_id}").json()
    assert (status["status"], status["progress"]) == ("completed", 100)
    assert status["processing_time"] >= 0
    result = serve.client.get(f"/api/v1/download/{job_id}")
    assert size_of(result.content) == (32, 24)
    assert (result.headers["content-type"], len(result.content)) == (
        "image/jpeg",
        status["file_size_bytes"],
    )
    assert serve.client.get("/api/v1/models").json()["models"]
    assert serve.client.get("/api/v1/health").status_code == 200


def test_the_versioned_services_health_check(serve: ServeProcess) -> None:
    """`wget --spider` asks by HEAD."""
    run("wget", "--spider", "-q", f"{serve.url}/api/v1/health")
    run("wget", "--spider", "-q", f"{serve.url}/api/health/ready")
    assert "upscaled_jobs" in serve.client.get("/metrics").text


# --- a pipeline's backend that has one address ----------


def test_the_pipelines_service_url(serve: ServeProcess, photo: Path) -> None:
    """UPSCALER_SERVICE_URL is the address of the submit; the rest comes from its answer."""
    service_url = f"{serve.url}/api/upscale"
    answers: list[dict[str, Any]] = []
    for number in range(2):
        answer = serve.client.post(
            service_url,
            files={"image": ("photo.png", photo.read_bytes())},
            data={"method": "esrgan", "scale": "4", "label": "batch 7", "quality": "90"}
            | ({"format": "jpg"} if number else {}),
            params={"wait": "60"},
        )
        assert answer.status_code == 200, answer.text
        answers.append(answer.json())
    listed = serve.client.get("/api/jobs", params={"label": "batch 7"}).json()["jobs"]
    assert {job["job_id"] for job in listed} == {job["job_id"] for job in answers}
    archive = serve.client.get(
        "/api/results.zip", params={"job_id": [job["job_id"] for job in answers]}
    )
    assert (archive.status_code, archive.content[:2]) == (200, b"PK")


# --- a site with tasks ----------


def test_the_pipelines_upload_says_what_to_set_if_there_is_no_bucket(
    serve: ServeProcess, photo: Path
) -> None:
    answer = serve.client.post("/api/images/upload", files={"image": photo.read_bytes()})
    assert code_of(answer) == (404, "not_found")
    assert "S3_BUCKET" in answer.json()["detail"]


def test_the_sites_tasks(serve: ServeProcess, photo: Path) -> None:
    answer = serve.client.post(
        "/api/upscale",
        files={"file": ("photo.png", photo.read_bytes())},
        data={"format": "webp", "scale": "2"},
    )
    job = serve.ended(serve.accepted(answer)["job_id"])
    assert job["result_url"].endswith(".webp")
    assert size_of(serve.client.get(job["result_url"]).content) == (32, 24)
    active = serve.client.get("/api/jobs", params={"status": "processing"}).json()["jobs"]
    assert job["job_id"] not in {one["job_id"] for one in active}
    stats = serve.client.get("/api/stats").json()
    assert stats["methods"]["esrgan"]["completed"] >= 1
    assert stats["results_bytes"] > 0


# --- an API that is given addresses ----------


def test_the_address_apis_requests(serve: ServeProcess, photo: Path) -> None:
    private = serve.client.post(
        "/api/upscale?wait=60", json={"img_url": "http://169.254.169.254/a.png", "scale": 2}
    )
    assert (private.status_code, private.json()["code"]) == (403, "path_not_allowed")
    text = base64.b64encode(photo.read_bytes()).decode()
    answer = serve.client.post("/api/upscale?wait=60", json={"image_base64": text, "scale": 2})
    assert answer.status_code == 200, answer.text
    result = serve.client.get(answer.json()["result_url"], params={"encoding": "base64"}).json()
    assert size_of(base64.b64decode(result["image_base64"])) == (32, 24)
    health = serve.client.get("/api/health").json()
    assert {"max_request_mb", "max_input_megapixels", "max_queue"} <= health["limits"].keys()
    assert health["workers"]
    removed = serve.client.post("/api/cleanup", json={"older_than_s": 0}).json()
    assert removed["removed_files"] >= 1
    assert removed["freed_bytes"] > 0
