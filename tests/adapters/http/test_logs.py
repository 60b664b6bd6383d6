"""The log: one line per request, on stdout or in a file."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from asgi import ask
from scripted_service import ScriptedService
from upscaled_http.app import create_app
from upscaled_http.config import LoggingSettings, Settings
from upscaled_http.keys import Key
from upscaled_http.logs import configure_logging, flush_log


def fields_of(records: list[logging.LogRecord]) -> list[dict[str, Any]]:
    return [vars(one)["fields"] for one in records if one.name == "upscaled_http.access"]


def test_a_request_is_one_line_with_its_route_and_key_name_and_without_its_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = "0123456789abcdef"
    settings = Settings.model_validate({"auth": {"keys": (Key.of("web", key),)}})
    app = create_app(settings, ScriptedService())
    caplog.set_level(logging.INFO, "upscaled_http")
    sent = {"X-API-Key": key, "X-Request-ID": "id-1"}
    answer = ask(app, "GET", f"/api/v1/models?x={key}", sent)
    assert answer.headers["x-request-id"] == "id-1"
    ask(app, "GET", f"/{key}", {"X-Request-ID": "a\tb\" 'c"})
    first, second = fields_of(caplog.records)
    assert first | {"ms": 0} == {
        "request_id": "id-1",
        "client": "127.0.0.1",
        "key": "web",
        "method": "GET",
        "route": "/api/models",
        "status": 200,
        "job_id": None,
        "bytes_in": 0,
        "bytes_out": len(answer.body),
        "ms": 0,
    }
    assert (second["route"], second["status"]) == ("none", 404)
    assert re.fullmatch(r"[0-9a-f]{32}", second["request_id"])
    assert key not in caplog.text + json.dumps([first, second])


def test_probes_are_logged_at_the_level_debug_alone(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(Settings(), ScriptedService())
    caplog.set_level(logging.INFO, "upscaled_http")
    ask(app, "GET", "/api/health/live")
    assert not fields_of(caplog.records)
    caplog.set_level(logging.DEBUG, "upscaled_http")
    ask(app, "GET", "/api/health/live")
    assert len(fields_of(caplog.records)) == 1


def test_requests_are_counted_by_their_routes_template() -> None:
    app = create_app(Settings(), ScriptedService())
    for target in ("/api/models", "/api/v1/models", "/api/unknown-1", "/api/unknown-2"):
        ask(app, "GET", target)
    ask(app, "HEAD", "/api/models")
    ask(app, "POST", "/api/models", (), [b"12345"])
    answer = ask(app, "GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.body.decode().splitlines()
    for line in (
        'upscaled_http_requests_total{code="200",method="GET",route="/api/models"} 2.0',
        'upscaled_http_requests_total{code="200",method="HEAD",route="/api/models"} 1.0',
        'upscaled_http_requests_total{code="405",method="POST",route="/api/models"} 1.0',
        'upscaled_http_requests_total{code="404",method="GET",route="none"} 2.0',
        'upscaled_http_request_duration_seconds_count{route="/api/models"} 4.0',
    ):
        assert line in lines
    assert "unknown-1" not in answer.body.decode()


@pytest.mark.usefixtures("logging_restored")
def test_a_log_that_is_not_read_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = (os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
    monkeypatch.setattr("sys.stdout", writing)
    monkeypatch.setattr("upscaled_http.logs._WAITING_LINES", 100)
    configure_logging(LoggingSettings())
    (handler,) = logging.getLogger().handlers
    log = logging.getLogger("upscaled_http.test")
    count = 2_000  # of 100 bytes: more than the pipe and those that may wait
    for number in range(count):
        log.info("x" * 100, extra={"fields": {"number": number}})
    seen: list[dict[str, Any]] = []
    while not seen or "lines" not in seen[-1]:
        seen.append(json.loads(reading.readline()))
    assert seen[-1]["message"] == "lines were dropped, because the log was not read"
    emptying = threading.Thread(target=lambda: seen.extend(map(json.loads, reading)))
    emptying.start()
    handler.flush()
    writing.close()
    emptying.join()
    reading.close()
    numbers = [line["number"] for line in seen if "number" in line]
    dropped = sum(line["lines"] for line in seen if "lines" in line)
    assert numbers == sorted(set(numbers))
    assert len(numbers) + dropped == count


@pytest.mark.usefixtures("logging_restored")
def test_a_flush_has_an_end_although_the_log_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = (os.fdopen(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))
    monkeypatch.setattr("sys.stdout", writing)
    monkeypatch.setattr("upscaled_http.logs._FLUSH_S", 0.05)
    configure_logging(LoggingSettings())
    for _ in range(2_000):  # of 100 bytes: more than the pipe takes
        logging.getLogger("upscaled_http.test").info("x" * 100)
    flushing = threading.Thread(target=flush_log)
    flushing.start()
    flushing.join(10)
    has_ended = not flushing.is_alive()
    (handler,) = logging.getLogger().handlers
    emptying = threading.Thread(target=reading.read)
    emptying.start()
    flushing.join()
    monkeypatch.setattr("upscaled_http.logs._FLUSH_S", 60)
    handler.flush()
    writing.close()
    emptying.join()
    reading.close()
    assert has_ended


@pytest.mark.usefixtures("logging_restored")
def test_the_log_goes_to_a_file_that_rotates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "serve.log"
    root = logging.getLogger()
    monkeypatch.setattr("upscaled_http.logs.ROTATE_BYTES", 300)
    log = logging.getLogger("upscaled_http.test")
    configure_logging(LoggingSettings(output="both", file_path=file))
    for number in range(6):
        log.info("a line\nof two", extra={"fields": {"number": number}})
        root.handlers[0].flush()
    log.debug("not shown")
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["number"] for line in shown] == list(range(6))
    assert shown[0]["message"] == "a line\nof two"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z", shown[0]["time"])
    old = file.with_suffix(".log.1").read_text()
    kept = [json.loads(line)["number"] for line in (old + file.read_text()).splitlines()]
    assert kept == list(range(6))[-len(kept) :]
    assert file.stat().st_size <= 300
    configure_logging(LoggingSettings(output="file", format="text", file_path=file))
    log.warning("said", extra={"fields": {"job_id": "1", "key": None}})
    root.handlers[0].flush()
    assert capsys.readouterr().out == ""
    assert file.read_text().splitlines()[-1].endswith("Z warning said job_id=1")
