"""What every route has: problems, HEAD, an alias, headers, a log line, a count, a document."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from asgi import ask
from scripted_service import ScriptedService
from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_http.logs import JsonLines, TextLines
from upscaled_http.page import add_page

SECRET = "/srv/secret/0123456789abcdef"


class Counted(Response):
    """An answer that has an effect before its last part is sent, as a download may have."""

    sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        Counted.sent += 1
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def app() -> FastAPI:
    """With routes that fail, and one whose answer has no end."""
    made = create_app(Settings(), ScriptedService())
    added = FastAPI()

    @added.get("/api/fails/{job_id}")
    async def fails(job_id: str) -> None:
        raise ValueError(f"{SECRET} of {job_id}")

    @added.get("/api/counts")
    async def counts(number: int) -> int:
        return number

    @added.get("/api/endless")
    async def endless() -> StreamingResponse:
        async def bodies() -> AsyncIterator[bytes]:
            while True:
                yield b"event"
                await asyncio.sleep(0)

        return StreamingResponse(bodies(), headers={"X-Kept": "yes"})

    @added.get("/api/effects", response_class=Response)
    async def effects() -> Response:
        return Counted()

    made.router.routes[:0] = [route for route in added.routes if isinstance(route, APIRoute)]
    return made


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/nothing", "/api/nothing", "/api/v1/nothing", "/api/jobs/"])
def test_an_address_with_nothing_is_a_problem(app: FastAPI, target: str) -> None:
    answer = ask(app, "GET", target)
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("prefix", ["/api", "/api/v1"])
def test_a_method_that_is_not_allowed_gets_the_allowed_ones(app: FastAPI, prefix: str) -> None:
    for target, allowed in (
        (f"{prefix}/jobs/1", "DELETE, GET, HEAD"),
        (f"{prefix}/upscale", "POST"),
        (f"{prefix}/health", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ):
        answer = ask(app, "PATCH", target)
        assert (answer.status, answer.code) == (405, "method_not_allowed")
        assert answer.headers["allow"] == allowed


def test_a_wrong_parameter_is_named_in_a_400(app: FastAPI) -> None:
    answer = ask(app, "GET", "/api/counts?number=many")
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert answer.json["errors"][0]["field"] == "number"


def test_an_exception_that_nothing_catches_is_a_problem_that_shows_nothing(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(app, "GET", "/api/fails/7", {"X-Request-ID": "mine"})
    assert (answer.status, answer.code) == (500, "internal")
    assert SECRET not in answer.body.decode()
    assert "mine" in answer.json["detail"]
    (failure,) = [record for record in caplog.records if record.exc_info]
    for formatter in (JsonLines(), TextLines()):
        line = formatter.format(failure)
        assert "ValueError" in line
        assert "mine" in line
        assert re.search(r"test_app:\d+", line)
        assert SECRET not in line
        assert str(Path(__file__).parent) not in line


# --- HEAD, headers, documents -------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/health", "/api/v1/models", "/metrics", "/openapi.json"])
def test_head_has_the_headers_of_get_and_no_body(app: FastAPI, target: str) -> None:
    head, get = ask(app, "HEAD", target), ask(app, "GET", target)
    assert (head.status, head.body) == (get.status, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert get.body


def test_head_of_an_endless_answer_ends(app: FastAPI) -> None:
    answer = ask(app, "HEAD", "/api/endless")
    assert (answer.status, answer.body, answer.headers["x-kept"]) == (200, b"", "yes")


def test_head_stops_before_the_body_is_made(app: FastAPI) -> None:
    ask(app, "HEAD", "/api/effects")
    assert Counted.sent == 0
    ask(app, "GET", "/api/effects")
    assert Counted.sent == 1


def test_head_of_a_failure_is_its_status(app: FastAPI) -> None:
    assert ask(app, "HEAD", "/api/fails/7").status == 500
    assert ask(app, "HEAD", "/api/upscale").status == 405


@pytest.mark.parametrize("target", ["/api/health", "/api/nothing", "/docs"])
def test_answers_cannot_be_framed_cached_or_taken_for_another_type(
    app: FastAPI, target: str
) -> None:
    headers = ask(app, "GET", target).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_the_documents_need_no_other_server_and_may_be_below_a_path(app: FastAPI) -> None:
    page = ask(app, "GET", "/docs").body.decode()
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert sources
    for source in sources:
        assert source.startswith("docs/static/")
        assert ask(app, "GET", f"/{source}").status == 200
    assert "url: 'openapi.json'" in page
    assert ask(app, "GET", "/openapi.json").json["servers"] == [{"url": "./"}]
    assert "//" not in re.sub(r"//[^\n]*", "", page.partition("<script>")[2])


def test_the_document_names_problems_keys_and_no_alias() -> None:
    app = create_app(Settings(), ScriptedService())
    document = ask(app, "GET", "/openapi.json").json
    assert not [path for path in document["paths"] if path.startswith("/api/v1")]
    schemas = document["components"]["schemas"]
    references = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document))
    assert set(references) <= set(schemas)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            default = operation["responses"]["default"]["content"]
            assert list(default) == ["application/problem+json"], (path, method)
            assert "422" not in operation["responses"] or "Problem" in json.dumps(
                operation["responses"]["422"]
            )
    for path in ("/api/upscale", "/api/upscale/{method}", "/api/face-enhance", "/api/batches"):
        names = [one["name"] for one in document["paths"][path]["post"]["parameters"]]
        assert "Idempotency-Key" in names, path
    assert {} in document["paths"]["/api/health/live"]["get"]["security"]
    assert {} not in document["paths"]["/api/jobs"]["get"]["security"]
    assert {one["type"] for one in document["components"]["securitySchemes"].values()} == {
        "http",
        "apiKey",
    }


def test_parts_can_be_switched_off() -> None:
    off = Settings.model_validate({"features": {"page": False, "docs": False, "metrics": False}})
    bare = create_app(off, ScriptedService())
    for target in ("/", "/docs", "/openapi.json", "/metrics"):
        assert ask(bare, "GET", target).status == 404
    assert ask(bare, "GET", "/api/health").status == 200


def test_the_page_is_its_files_and_nothing_beside_them(tmp_path: Path) -> None:
    folder = tmp_path / "page"
    (folder / "parts").mkdir(parents=True)
    (folder / "index.html").write_text("<p>page</p>")
    (folder / "parts" / "job.js").write_text("export {}")
    (tmp_path / "beside.txt").write_text("secret")
    app = FastAPI()
    add_page(app, folder)
    page = ask(app, "GET", "/")
    assert page.body == b"<p>page</p>"
    assert page.headers["content-security-policy"].startswith("default-src 'self'; img-src 'self'")
    script = ask(app, "GET", "/parts/job.js")
    assert script.headers["content-type"].startswith("text/javascript")
    again = ask(app, "GET", "/parts/job.js", {"If-None-Match": script.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    for target in ("/parts", "/parts/..%2f..%2fbeside.txt", "/%2e%2e/beside.txt", "/other.js"):
        assert ask(app, "GET", target).status == 404
    assert ask(app, "POST", "/").status == 405


def test_a_request_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """FastAPI runs plain functions in threads: a request would take three changes of the thread."""
    app = create_app(Settings(), ScriptedService())
    monkeypatch.setattr("anyio.to_thread.run_sync", lambda *_, **__: pytest.fail("a thread"))
    for target in ("/api/health", "/api/health/live", "/api/models", "/metrics"):
        assert ask(app, "GET", target).status == 200


# --- health and models --------------------------------------------------------------------------


def test_probes_are_503_when_the_service_cannot() -> None:
    service = ScriptedService()
    app = create_app(Settings(), service)
    service.is_ready = False
    assert ask(app, "GET", "/api/health/live").status == 200
    assert ask(app, "GET", "/api/health/ready").status == 503
    service.is_live = False
    assert ask(app, "GET", "/api/health/live").status == 503


@pytest.mark.parametrize(
    ("state", "status"),
    [("ok", 200), ("loading", 200), ("degraded", 200), ("draining", 503), ("failed", 503)],
)
def test_health_is_503_while_no_job_can_be_done(state: Any, status: int) -> None:
    service = ScriptedService()
    service.status = state
    answer = ask(create_app(Settings(), service), "GET", "/api/health")
    assert (answer.status, answer.json["status"]) == (status, state)


def test_health_leaves_out_what_is_not_known() -> None:
    answer = ask(create_app(Settings(), ScriptedService()), "GET", "/api/health")
    assert "gpu_name" not in answer.json
    assert b"null" not in answer.body


def test_models_are_the_catalogues_and_the_users_own_with_one_default_per_method(
    tmp_path: Path,
) -> None:
    (tmp_path / "upscale_models").mkdir()
    (tmp_path / "upscale_models" / "mine.safetensors").write_bytes(b"")
    (tmp_path / "facerestore_models").mkdir()
    (tmp_path / "facerestore_models" / "my-faces.pth").write_bytes(b"")
    settings = Settings.model_validate({"workers": {"model_dir": tmp_path}})
    listed = ask(create_app(settings, ScriptedService()), "GET", "/api/models").json["models"]
    models = {model["name"]: model for model in listed}
    assert models["compact-x4"]["installed"]
    assert models["compact-x4"]["licence"]
    assert not models["4x-UltraSharp"]["installed"]
    assert models["mine"]["installed"]
    assert models["mine"]["licence"] is None
    assert (models["my-faces"]["method"], models["my-faces"]["installed"]) == ("face", True)
    defaults = {model["method"]: model["name"] for model in listed if model["default"]}
    assert defaults == {
        "esrgan": "auto",
        "flux": "flux1-dev-Q8_0",
        "imagen": "imagen-4.0-upscale-preview",
        "face": "GFPGANv1.4",
    }
    assert len(defaults) == sum(model["default"] for model in listed)
    assert not {"ae", "t5xxl_fp16"} & set(models), "parts of a method are no models"
    assert str(tmp_path) not in json.dumps(listed)


def test_a_model_folder_that_cannot_be_read_counts_as_empty(tmp_path: Path) -> None:
    folder = tmp_path / ("m" * 300)  # a name that is too long fails for root too
    settings = Settings.model_validate({"workers": {"model_dir": folder}})
    listed = ask(create_app(settings, ScriptedService()), "GET", "/api/models").json["models"]
    models = {model["name"]: model["installed"] for model in listed}
    assert (models["compact-x4"], models["4x-UltraSharp"]) == (True, False)


def test_the_default_model_of_the_settings_is_the_one_that_is_listed() -> None:
    sections = {"defaults": {"model": "4x-ultrasharp"}, "workers": {"methods": ["esrgan", "fake"]}}
    app = create_app(Settings.model_validate(sections), ScriptedService())
    listed = ask(app, "GET", "/api/models").json["models"]
    assert {model["method"] for model in listed} == {"esrgan", "fake"}
    assert {model["name"] for model in listed if model["default"]} == {"4x-UltraSharp", "fake"}


# --- log and metrics ----------------------------------------------------------------------------
