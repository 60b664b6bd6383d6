"""Results too long for most clients, and how every end of a job begins."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES
from wires import stop, write_as_worker

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


def pid_of_worker_with(daemon: Daemon, job_id: str) -> int:
    report = daemon.wait_health(lambda one: job_id in one["workers"][0].get("jobs", ()))
    return int(report["workers"][0]["pid"])


def test_a_result_past_the_limit_of_lines_reaches_the_host(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True)
    pid = pid_of_worker_with(daemon, "a")
    stop(pid)  # or its own lines would come in the middle of ours
    head = b'{"type":"result","job_id":"a","status":"completed","output_base64":"'
    write_as_worker(pid, head + b"x" * DEFAULT_LINE_LIMIT_BYTES + b'"}\n')
    os.kill(pid, signal.SIGCONT)
    assert len(daemon.wait_terminal("a")["output_base64"]) == DEFAULT_LINE_LIMIT_BYTES


def test_every_end_of_a_job_begins_with_its_type_and_its_id(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--max-queue", "2")
    daemon.job("done")
    daemon.wait_terminal("done")
    daemon.job("running", hang=True)
    daemon.job("crashing", exit_code=7)
    daemon.job("waiting")
    daemon.job("running")  # in flight
    daemon.send({"job_id": "refused"}, {"job_id": 7}, b"{\n")
    for job_id in ("waiting", "crashing", "running"):
        daemon.send({"type": "cancel", "job_id": job_id})
        daemon.wait_terminal(job_id)
    daemon.wait_terminal("refused")
    daemon.close_stdin()
    daemon.wait()
    ends = daemon.terminals()
    assert len(ends) == 8
    assert [list(one)[:2] for one in ends] == [["type", "job_id"]] * 8
