"""Lines of the daemon that pass the Python client's limit: no call waits for what was dropped."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from upscaled_cli.client import Client, DaemonGoneError

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


def daemon(*heads: str) -> Client:
    return Client([sys.executable, "-SE", "-c", DAEMON, *heads])


def ends(client: Client, *job_ids: str) -> dict[str, Any]:
    for job_id in job_ids:
        client.submit("fake", {}, job_id=job_id)
    messages = list(client.events(TIMEOUT_S))
    return {one["job_id"]: one for one in messages if "job_id" in one}


@pytest.mark.parametrize("job_id", ["a", "😀" * 128], ids=["short", "long"])
def test_a_result_past_the_limit_ends_its_job_with_a_code_and_the_others_go_on(job_id: str) -> None:
    escaped = job_id.replace("😀", "\\ud83d\\ude00")
    with daemon(f'{{"type":"result","job_id":"{escaped}","output_base64":"') as client:
        got = ends(client, job_id, "b")
    assert got["b"]["type"] == "result"
    sentence = got[job_id].pop("error")
    assert "more than 32 MiB: give output_path instead of output_base64" in sentence
    code = {"code": "line_too_long", "retryable": False}
    assert got[job_id] == {"type": "error", "job_id": job_id, **code}


def test_an_error_past_the_limit_ends_its_job_with_a_code() -> None:
    with daemon(' { "type" : "error" , "job_id" : "a\\"" , "error":"') as client:
        got = ends(client, 'a"', "b")
    assert got['a"']["code"] == "line_too_long"
    assert "its error was dropped" in got['a"']["error"]


def test_any_other_line_past_the_limit_changes_nothing() -> None:
    heads = [
        '{"type":"progress","job_id":"b","stage":"',
        '{"type":"error","job_id":null,"error":"',
        '{"type":"status","detail":"',
        "a library's print",
    ]
    with daemon(*heads) as client:
        client.submit("fake", {}, job_id="b")
        client.send({"type": "trim"})
        types = [one["type"] for one in client.events(TIMEOUT_S)]
    assert types == ["status", "result"]


@pytest.mark.parametrize(
    "head", ['{"output_base64":"', '{"type":"result","output":"', '{"type":"result","job_id":"']
)
def test_a_line_past_the_limit_that_tells_no_job_ends_the_daemon(head: str) -> None:
    with daemon(head) as client:
        with pytest.raises(DaemonGoneError, match="does not begin with type and job_id"):
            ends(client, "a", "b")
        assert client.returncode == -9
