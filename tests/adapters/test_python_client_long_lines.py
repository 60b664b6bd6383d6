"""Lines of the daemon that pass the Python client's limit: no call waits for what was dropped."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from upscaled import DaemonGoneError, InvalidJobError, Upscaler

TIMEOUT_S = 60.0

# Answers its first job with the lines that its arguments begin, each past the limit of 32 MiB, and
# its second one as it should.
DAEMON = r"""
import sys
def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
say('{"type":"status","message":"ready"}')
sys.stdin.readline()
for head in sys.argv[1:]:
    say(head + "x" * 2**25 + '"}')
sys.stdin.readline()
say('{"type":"result","job_id":"b"}')
sys.stdin.read()
"""


def daemon(*heads: str, **options: Any) -> Upscaler:
    return Upscaler(command=[sys.executable, "-SE", "-c", DAEMON, *heads], attempts=0, **options)


def ends(up: Upscaler, *job_ids: str) -> dict[str, BaseException | None]:
    calls = [up.submit_job({"job_id": one, "method": "fake", "config": {}}) for one in job_ids]
    return {call.job_id: call.exception(TIMEOUT_S) for call in calls}


@pytest.mark.parametrize("job_id", ["a", "😀" * 128], ids=["short", "long"])
def test_a_result_past_the_limit_ends_its_job_with_a_code_and_the_others_continue(
    job_id: str,
) -> None:
    escaped = job_id.replace("😀", "\\ud83d\\ude00")
    with daemon(f'{{"type":"result","job_id":"{escaped}","output_base64":"') as up:
        got = ends(up, job_id, "b")
    assert got["b"] is None
    error = got[job_id]
    assert isinstance(error, InvalidJobError)
    assert "more than 32 MiB: give output_path instead of output_base64" in str(error)
    assert (error.code, error.retryable, error.job_id) == ("line_too_long", False, job_id)


def test_an_error_past_the_limit_ends_its_job_with_a_code() -> None:
    with daemon(' { "type" : "error" , "job_id" : "a\\"" , "error":"') as up:
        error = ends(up, 'a"', "b")['a"']
    assert isinstance(error, InvalidJobError)
    assert "its error was dropped" in str(error)


def test_any_other_line_past_the_limit_changes_nothing() -> None:
    heads = [
        '{"type":"progress","job_id":"b","stage":"',
        '{"type":"error","job_id":null,"error":"',
        '{"type":"status","detail":"',
        "a library's print",
    ]
    said: list[dict[str, Any]] = []
    with daemon(*heads, on_message=said.append) as up:
        calls = [up.submit_job({"job_id": one, "method": "fake"}) for one in ("b", "c")]
        assert calls[0].exception(TIMEOUT_S) is None
    assert [one["type"] for one in said] == ["status", "result"]


@pytest.mark.parametrize(
    "head", ['{"output_base64":"', '{"type":"result","output":"', '{"type":"result","job_id":"']
)
def test_a_line_past_the_limit_that_shows_no_job_ends_the_daemon(head: str) -> None:
    with daemon(head) as up:
        error = ends(up, "a", "b")["a"]
    assert isinstance(error, DaemonGoneError)
    assert "does not begin with type and job_id" in str(error)
    assert error.status == -9
