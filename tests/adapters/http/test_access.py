"""What a request must pass before a route runs. Each check is made before the body is read."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from asgi import ask
from scripted_service import ScriptedService
from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_http.keys import Key

KEY = "0123456789abcdef"
OTHER = "fedcba9876543210"


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


KEYED = settings(auth={"keys": (Key.of("web", KEY), Key.of("app", OTHER))})


def application(given: Settings, service: ScriptedService | None = None) -> FastAPI:
    """With routes of this test in front of the real ones: one that submits, one that shows."""
    app = create_app(given, service or ScriptedService())
    added = FastAPI()

    @added.post("/api/upscale")
    async def submit(request: Request) -> dict[str, Any]:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
        return {"bytes": size, "caller": request.state.caller}

    @added.get("/api/jobs")
    async def show(request: Request) -> dict[str, Any]:
        return {"caller": request.state.caller}

    app.router.routes[:0] = [route for route in added.routes if isinstance(route, APIRoute)]
    return app


def refusal(app: ASGIApp, method: str, target: str, headers: Any = ()) -> tuple[int, str]:
    answer = ask(app, method, target, headers, [b"picture"])
    assert answer.asked == 0, "the body was read"
    assert answer.headers["connection"] == "close"
    return answer.status, answer.code


# --- Host and Origin ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "[::1]:8080", "10.0.0.7", "localhost", "BOX:8080", "nas.local",
     "a.localhost:80", "host.docker.internal", "mine.example", "mine.example:8443"],
)  # fmt: skip
def test_without_keys_a_private_host_is_served(host: str) -> None:
    app = application(settings(server={"allowed_hosts": ["mine.example"]}))
    assert ask(app, "GET", "/api/jobs", {"Host": host}).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "mine.example.evil.example",
     "x@localhost", "localhost/..", "local host.evil.example", "a:b:c", "[::1", "localhost:x", ""],
)  # fmt: skip
def test_without_keys_a_name_that_an_attacker_may_own_is_refused(host: str) -> None:
    app = application(settings(server={"allowed_hosts": ["mine.example"]}))
    assert refusal(app, "POST", "/api/upscale", {"Host": host}) == (403, "host_not_allowed")


def test_two_hosts_are_refused() -> None:
    headers = [("Host", "localhost"), ("Host", "evil.example")]
    assert refusal(application(Settings()), "GET", "/api/jobs", headers)[0] == 400


def test_with_keys_any_host_is_served() -> None:
    headers = {"Host": "upscale.example", "X-API-Key": KEY, "Origin": "https://other.example"}
    assert ask(application(KEYED), "POST", "/api/upscale", headers, [b"x"]).status == 200


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
@pytest.mark.parametrize(
    "origin",
    ["null", "https://evil.example", "http://localhost:9999", "http://localhost", "x", "http://[",
     "http://localhost:8080.evil.example"],
)  # fmt: skip
def test_without_keys_a_page_of_another_origin_writes_nothing(method: str, origin: str) -> None:
    headers = {"Origin": origin}
    found = refusal(application(Settings()), method, "/api/upscale", headers)
    assert found == (403, "origin_not_allowed")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8080", "localhost:8080"),
        ("http://localhost", "localhost"),
        ("http://nas.local:80", "nas.local"),
        ("https://nas.local", "nas.local:443"),
        ("https://app.example", "localhost:8080"),
    ],
)
def test_its_own_page_and_those_of_cors_origins_write(origin: str, host: str) -> None:
    app = application(settings(server={"cors_origins": ["https://app.example"]}))
    headers = {"Origin": origin, "Host": host}
    assert ask(app, "POST", "/api/upscale", headers, [b"x"]).status == 200


def test_a_foreign_page_may_read_nothing_that_it_could_not_navigate_to() -> None:
    answer = ask(application(Settings()), "GET", "/api/jobs", {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_cors_headers_are_on_errors_too_and_on_preflights() -> None:
    app = application(
        settings(server={"cors_origins": ["https://app.example"]}, auth=KEYED.auth.model_dump())
    )
    origin = {"Origin": "https://app.example"}
    refused = ask(app, "POST", "/api/upscale", origin, [b"x"])
    assert refused.status == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example"
    asked = origin | {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-api-key, idempotency-key",
    }
    assert ask(app, "OPTIONS", "/api/upscale", asked).status == 200
    foreign = asked | {"Origin": "https://evil.example"}
    assert ask(app, "OPTIONS", "/api/upscale", foreign).status == 400


# --- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-API-Key": "0123456789abcdeg"},
        {"X-API-Key": ""},
        {"X-API-Key": Key.of("web", KEY).sha256},
        {"X-API-Key": f"web:{KEY}"},
        {"X-API-Key": "\xe9" * 16},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer"},
        {"Cookie": f"key={KEY}"},
    ],
)
@pytest.mark.parametrize("target", ["/api/upscale", "/api/v1/upscale", f"/api/upscale?key={KEY}"])
def test_without_a_key_that_is_set_nothing_is_taken(headers: dict[str, str], target: str) -> None:
    answer = ask(application(KEYED), "POST", target, headers, [b"picture"])
    assert (answer.status, answer.code, answer.asked) == (401, "unauthorized", 0)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY.encode() not in answer.body


@pytest.mark.parametrize(
    "headers",
    [{"X-API-Key": KEY}, {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"bearer  {KEY}"}],
)
def test_a_key_opens_the_api_under_its_name(headers: dict[str, str]) -> None:
    answer = ask(application(KEYED), "GET", "/api/jobs", headers)
    assert answer.json["caller"] == ["web", "127.0.0.1"]


@pytest.mark.parametrize("target", ["/api/jobs", "/api/models", "/api/nothing", "/metrics"])
def test_reading_needs_a_key_too(target: str) -> None:
    answer = ask(application(KEYED), "GET", target)
    assert (answer.status, answer.code) == (401, "unauthorized")


@pytest.mark.parametrize("prefix", ["/api", "/api/v1"])
def test_probes_and_documents_need_no_key(prefix: str) -> None:
    app = application(KEYED)
    for target in (f"{prefix}/health/live", f"{prefix}/health/ready", "/docs", "/openapi.json"):
        assert ask(app, "GET", target).status == 200


def test_health_shows_the_workers_only_to_a_key() -> None:
    app = application(KEYED)
    assert "workers" not in ask(app, "GET", "/api/health").json
    assert "workers" not in ask(app, "GET", "/api/health", {"X-API-Key": "wrong"}).json
    assert "workers" in ask(app, "GET", "/api/health", {"X-API-Key": KEY}).json
    assert "workers" in ask(application(Settings()), "GET", "/api/health").json


# --- rates --------------------------------------------------------------------------------------


def test_submits_past_the_rate_are_refused_with_the_time_to_come_back() -> None:
    app = application(settings(limits={"rate_per_minute": 2}))
    first = ask(app, "POST", "/api/upscale", (), [b"x"])
    assert first.headers["ratelimit-policy"] == '"minute";q=2;w=60'
    assert first.headers["ratelimit"].startswith('"minute";r=1;t=')
    assert ask(app, "POST", "/api/v1/upscale/esrgan", (), [b"x"]).status != 429
    third = ask(app, "POST", "/api/upscale", (), [b"x"])
    assert (third.status, third.code, third.asked) == (429, "rate_limited", 0)
    assert 1 <= int(third.headers["retry-after"]) <= 60
    assert third.headers["ratelimit"].startswith('"minute";r=0;t=')
    assert ask(app, "GET", "/api/jobs").status == 200


def test_each_key_has_a_rate_of_its_own() -> None:
    app = application(settings(limits={"rate_per_minute": 1}, auth=KEYED.auth.model_dump()))
    statuses = [
        ask(app, "POST", "/api/upscale", {"X-API-Key": key}, [b"x"]).status
        for key in (KEY, KEY, OTHER)
    ]
    assert statuses == [200, 429, 200]


def test_only_a_trusted_proxy_gives_the_clients_address() -> None:
    app = application(
        settings(limits={"rate_per_minute": 1}, server={"trusted_proxies": ["10.0.0.0/8"]})
    )

    def submit(peer: str, forwarded: str) -> int:
        headers = {"X-Forwarded-For": forwarded}
        return ask(app, "POST", "/api/upscale", headers, [b"x"], (peer, 1)).status

    assert submit("10.0.0.1", "1.1.1.1") == 200
    assert submit("10.0.0.1", "2.2.2.2") == 200
    assert submit("10.0.0.1", "9.9.9.9, 2.2.2.2") == 429  # the proxy added the last one
    assert submit("8.8.8.8", "3.3.3.3") == 200
    assert submit("8.8.8.8", "4.4.4.4") == 429


def test_addresses_of_one_ipv6_network_share_a_rate() -> None:
    app = application(settings(limits={"rate_per_minute": 1}))
    peers = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
    statuses = [ask(app, "POST", "/api/upscale", (), [b"x"], (peer, 1)).status for peer in peers]
    assert statuses == [200, 429, 200]


# --- the service --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("is_draining", (503, "shutting_down")),
        ("is_queue_full", (429, "queue_full")),
        ("is_disk_full", (507, "insufficient_storage")),
    ],
)
def test_a_server_that_can_take_no_job_says_why_and_still_answers(
    state: str, expected: tuple[int, str]
) -> None:
    service = ScriptedService()
    setattr(service, state, True)
    app = application(Settings(), service)
    answer = ask(app, "POST", "/api/upscale", (), [b"picture"])
    assert (answer.status, answer.code) == expected
    assert answer.asked == 0
    assert answer.headers["retry-after"]
    assert answer.json["retryable"]
    assert ask(app, "GET", "/api/jobs").status == 200


def test_checks_are_made_in_their_order() -> None:
    """Every one of them fails, and each is mended in turn."""
    service = ScriptedService()
    service.is_draining = service.is_queue_full = service.is_disk_full = True
    headers = {"Host": "evil.example", "Origin": "null", "Content-Length": "999999999"}
    anonymous = application(settings(limits={"rate_per_minute": 1, "max_request_mb": 1}), service)
    seen = [refusal(anonymous, "POST", "/api/upscale", headers)[1]]
    headers["Host"] = "localhost"
    seen.append(refusal(anonymous, "POST", "/api/upscale", headers)[1])
    keyed = application(
        settings(limits={"rate_per_minute": 1, "max_request_mb": 1}, auth=KEYED.auth.model_dump()),
        service,
    )
    seen.append(refusal(keyed, "POST", "/api/upscale", headers)[1])
    headers["X-API-Key"] = KEY
    seen += [refusal(keyed, "POST", "/api/upscale", headers)[1] for _ in range(2)]
    unlimited = application(
        settings(limits={"max_request_mb": 1}, auth=KEYED.auth.model_dump()), service
    )
    service.is_draining = False
    seen.append(refusal(unlimited, "POST", "/api/upscale", headers)[1])
    service.is_queue_full = False
    seen.append(refusal(unlimited, "POST", "/api/upscale", headers)[1])
    service.is_disk_full = False
    seen.append(refusal(unlimited, "POST", "/api/upscale", headers)[1])
    assert seen == [
        "host_not_allowed",
        "origin_not_allowed",
        "unauthorized",
        "shutting_down",
        "rate_limited",
        "queue_full",
        "insufficient_storage",
        "input_too_large",
    ]


# --- the body -----------------------------------------------------------------------------------


def test_a_length_past_the_limit_is_refused_before_the_body() -> None:
    app = application(settings(limits={"max_request_mb": 1}))
    too_long = {"Content-Length": str(1024 * 1024 + 1)}
    assert refusal(app, "POST", "/api/upscale", too_long) == (413, "input_too_large")


def test_a_body_that_grows_past_the_limit_is_cut_there() -> None:
    app = application(settings(limits={"max_request_mb": 1}))
    answer = ask(app, "POST", "/api/upscale", (), [bytes(600_000)] * 5)
    assert (answer.status, answer.code) == (413, "input_too_large")
    assert answer.asked == 2
    assert answer.headers["connection"] == "close"
    fits = ask(app, "POST", "/api/upscale", (), [bytes(512 * 1024)] * 2)
    assert fits.json["bytes"] == 1024 * 1024
    assert "connection" not in fits.headers


def test_an_upload_that_takes_too_long_is_ended_though_it_always_comes() -> None:
    app = application(settings(server={"upload_timeout_s": 1e-9}))
    answer = ask(app, "POST", "/api/upscale", (), [b"more"] * 9)
    assert (answer.status, answer.code) == (408, "upload_timeout")


@pytest.mark.parametrize("setting", ["upload_idle_s", "upload_timeout_s"])
def test_an_upload_that_stops_is_ended(setting: str) -> None:
    others = {"upload_idle_s": 1e6, "upload_timeout_s": 1e6}
    app = application(settings(server=others | {setting: 0.01}))
    answer = ask(app, "POST", "/api/upscale", (), [b"begun"], ends=False)
    assert (answer.status, answer.code) == (408, "upload_timeout")
    assert answer.headers["connection"] == "close"
