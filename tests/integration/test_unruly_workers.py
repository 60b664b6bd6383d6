"""Workers and fork servers that misbehave: no job is charged for it twice."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from upscaled_protocol.processtree import child_pids
from wires import write_as_worker

if TYPE_CHECKING:
    from tests.conftest import Daemon, Line, StartDaemon


def fork_server_pid(daemon: Daemon) -> int:
    (pid,) = child_pids(daemon.pid)
    return pid


def worker_pid(daemon: Daemon, slot: int = 0) -> int:
    report = daemon.wait_health(lambda one: one["workers"][slot]["state"] in ("ready", "busy"))
    return int(report["workers"][slot]["pid"])


def wait_held(daemon: Daemon, job_id: str) -> Line:
    """The report once the worker has the job, perhaps before any message about it."""
    return daemon.wait_health(lambda one: job_id in one["workers"][0].get("jobs", ()))


def test_a_worker_that_writes_garbage_is_replaced(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True, only_on_attempt=1)
    wait_held(daemon, "a")
    write_as_worker(worker_pid(daemon), b"Segmentation fault\n")
    assert daemon.wait_terminal("a")["attempt"] == 2
    assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "protocol_violation"


def test_a_sigterm_to_a_worker_loses_no_job(
    start_supervisor: StartDaemon,
) -> None:
    """As systemd does, which sends SIGTERM to every process of a service."""
    daemon = start_supervisor()
    daemon.job("long", steps=100, step_s=0.01)
    daemon.wait_progress("long")
    os.kill(worker_pid(daemon), signal.SIGTERM)
    for number in range(20):
        daemon.job(str(number))
    for name in ("long", *map(str, range(20))):
        end = daemon.wait_terminal(name)
        assert (end["type"], end.get("attempt")) == ("result", 1)
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause == {"reason": "signal", "signal": "SIGTERM"}
    assert daemon.ask_health()["workers"][0]["restarts"] == 1


def test_a_cancel_that_meets_a_draining_worker_is_not_lost(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    daemon.job("a", hang=True)
    wait_held(daemon, "a")
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.ask_health()
    os.kill(pid, signal.SIGCONT)  # it exits, and leaves both unread
    assert daemon.wait_terminal("a")["code"] == "cancelled"
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] == 1)
    daemon.job("next")
    daemon.wait_terminal("next")


def test_a_fork_server_that_is_stopped_is_replaced(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True, only_on_attempt=1)
    wait_held(daemon, "a")
    os.kill(fork_server_pid(daemon), signal.SIGSTOP)
    os.kill(worker_pid(daemon), signal.SIGKILL)
    assert daemon.wait_terminal("a")["type"] == "result"


def limit_files(pid: int, number: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))


@pytest.mark.parametrize("process", ["fork server", "supervisor"])
def test_a_worker_that_too_many_open_files_prevent_is_tried_again(
    start_supervisor: StartDaemon, process: str
) -> None:
    daemon = start_supervisor("--workers", "2")
    victim, other = worker_pid(daemon, 0), worker_pid(daemon, 1)
    pid = daemon.pid if process == "supervisor" else fork_server_pid(daemon)
    fds = [int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    limit_files(pid, max(fds) - 2 if process == "supervisor" else len(fds))
    os.kill(victim, signal.SIGKILL)
    report = daemon.wait_health(
        lambda one: (one["workers"][0]["last_restart"] or {}).get("reason") == "load_failed"
    )
    assert "Too many open files" in report["workers"][0]["last_restart"]["detail"]
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    limit_files(pid, 1024)
    assert worker_pid(daemon, 0) != victim
    assert worker_pid(daemon, 1) == other


def test_a_machine_without_room_for_a_thread_is_tried_again(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--no-template")
    victim = worker_pid(daemon)
    usual = resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK)
    # A thread gets a stack of the size of this limit: no machine has room for one of 64 TiB.
    resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK, (2**46, usual[1]))
    os.kill(victim, signal.SIGKILL)
    report = daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 4)
    assert report["workers"][0]["last_restart"]["reason"] == "load_failed"
    assert "no room for a thread" in report["workers"][0]["last_restart"]["detail"]
    daemon.job("a")
    resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK, usual)
    assert daemon.wait_terminal("a")["type"] == "result"
