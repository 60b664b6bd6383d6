"""The server keeps to its own OpenAPI document, whatever is sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_process import ServeProcess, serve_process

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeProcess]:
    # A queue that no number of accepted examples fills.
    folder = tmp_path_factory.mktemp("data")
    with serve_process(folder, UPSCALED_LIMITS_MAX_QUEUE="5000") as running:
        yield running


def check(serve: ServeProcess, examples: int, *, derandomize: bool) -> None:
    """Send so many requests to each operation, and hold the answers against the document."""
    document = schemathesis.openapi.from_url(f"{serve.url}/openapi.json")
    with requests.Session() as session:
        for found in document.exclude(path_regex="events").get_all_operations():
            assert isinstance(found, Ok), found
            operation = found.ok()

            @hypothesis.given(case=operation.as_strategy())
            @hypothesis.settings(
                max_examples=examples,
                derandomize=derandomize,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            def send(case: schemathesis.Case[Any]) -> None:
                case.call_and_validate(session=session, checks=CHECKS, timeout=30)

            send()
    assert serve.process.poll() is None
    assert b"Traceback" not in serve.log


def test_no_request_gets_an_answer_that_is_not_documented(serve: ServeProcess) -> None:
    check(serve, 8, derandomize=True)


@pytest.mark.long
def test_no_request_of_many_gets_an_answer_that_is_not_documented(serve: ServeProcess) -> None:
    check(serve, 300, derandomize=False)


def test_each_path_shows_the_methods_that_it_has(serve: ServeProcess) -> None:
    paths = serve.client.get("/openapi.json").json()["paths"]
    for path, operations in paths.items():
        has = {name.upper() for name in operations} & set(METHODS)
        address = path.replace("{", "").replace("}", "")
        for method in set(METHODS) - has - {"HEAD", "OPTIONS"}:
            answer = serve.client.request(method, address)
            assert answer.status_code == 405, (method, path)
            assert {one.strip() for one in answer.headers["allow"].split(",")} - {"HEAD"} == has
