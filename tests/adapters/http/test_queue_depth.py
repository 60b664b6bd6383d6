"""The queue's depth, if no queue is named or it does not answer."""

from __future__ import annotations

import argparse

import pytest

from asgi import ask
from scripted_service import ScriptedService
from upscaled_http import queuedepth
from upscaled_http.app import create_app
from upscaled_http.config import Settings
from upscaled_queue.command import parser

UNREACHABLE = Settings.model_validate({"queue": {"url": "redis://user:pass-0123@127.0.0.1:1/0"}})


@pytest.mark.parametrize("prefix", ["/api", "/api/v1"])
def test_a_server_without_a_queue_says_what_to_set(prefix: str) -> None:
    answer = ask(create_app(Settings(), ScriptedService()), "GET", f"{prefix}/queue/depth")
    assert (answer.status, answer.code) == (404, "not_found")
    assert "--queue" in answer.json["detail"]
    assert "UPSCALED_QUEUE_URL" in answer.json["detail"]


def test_a_queue_that_does_not_answer_is_a_problem_without_its_password() -> None:
    answer = ask(create_app(UNREACHABLE, ScriptedService()), "GET", "/api/queue/depth")
    assert (answer.status, answer.code) == (502, "upstream_unavailable")
    assert answer.json["retryable"] is True
    assert b"pass-0123" not in answer.body


def test_the_arguments_of_the_queues_daemon_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[argparse.ArgumentParser] = []

    def build() -> argparse.ArgumentParser:
        built.append(parser())
        return built[-1]

    monkeypatch.setattr(queuedepth, "parser", build)
    queuedepth._read_arguments.cache_clear()
    app = create_app(UNREACHABLE, ScriptedService())
    for _ in range(3):
        ask(app, "GET", "/api/queue/depth")
    assert len(built) == 1
