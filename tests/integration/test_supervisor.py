"""A supervisor and real workers, driven over pipes as a host does it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from upscaled_protocol.processtree import child_pids

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon

TEMPLATE = pytest.mark.parametrize("template", ["--template", "--no-template"])


def worker_pid(daemon: Daemon, slot: int = 0) -> int:
    """The worker's pid, once it is ready."""
    report = daemon.wait_health(lambda one: one["workers"][slot]["state"] in ("ready", "busy"))
    return int(report["workers"][slot]["pid"])


@TEMPLATE
def test_jobs_pass_through_both_ways(start_supervisor: StartDaemon, template: str) -> None:
    daemon = start_supervisor(template)
    daemon.job("a", steps=3, step_s=0.03)
    result = daemon.wait_terminal("a")
    assert result["status"] == "completed"
    assert daemon.finish() == 0
    kinds = [line["type"] for line in daemon.lines if line.get("job_id") == "a"]
    assert kinds[0] == "accepted"
    assert "progress" in kinds
    assert kinds.count("result") == 1
    messages = [line["message"] for line in daemon.lines if line["type"] == "status"]
    assert messages == ["loading_models", "ready", "draining", "stopped"]


@TEMPLATE
def test_a_killed_worker_loses_no_job(start_supervisor: StartDaemon, template: str) -> None:
    daemon = start_supervisor(template)
    daemon.job("running", hang=True, only_on_attempt=1)
    for number in range(3):
        daemon.job(f"waiting-{number}")
    daemon.wait_health(lambda one: "running" in one["workers"][0]["jobs"])
    os.kill(worker_pid(daemon), signal.SIGKILL)
    assert daemon.wait_terminal("running")["attempt"] == 2
    restarted = daemon.wait_status("worker_restarted")
    assert restarted["cause"] == {"reason": "signal", "signal": "SIGKILL"}
    assert daemon.finish() == 0
    assert len(daemon.terminals()) == 4
    # A job that had not started is not charged with the kill.
    assert daemon.wait_terminal("waiting-2")["attempt"] == 1


@TEMPLATE
def test_no_program_that_a_job_starts_inherits_the_protocol_pipes(
    start_supervisor: StartDaemon, template: str
) -> None:
    daemon = start_supervisor(template)
    daemon.job("a", spawn_sleeper=True)
    daemon.wait_terminal("a")
    (sleeper,) = child_pids(worker_pid(daemon))
    assert {int(one.name) for one in Path(f"/proc/{sleeper}/fd").iterdir()} <= {0, 1, 2}


def test_an_invalid_config_is_refused_by_name(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.job("a", stepz=3)
    error = daemon.wait_terminal("a")
    assert error["code"] == "invalid_job"
    assert "stepz" in error["error"]


def test_cancel_before_during_and_after(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.send({"type": "cancel", "job_id": "early"})
    daemon.job("early", hang=True)
    assert daemon.wait_terminal("early")["code"] == "cancelled"
    daemon.job("running", hang=True)
    daemon.job("slot", steps=100_000, step_s=0.01)
    daemon.job("queued")
    daemon.wait_health(lambda one: "running" in one["workers"][0]["jobs"])
    for name in ("queued", "running", "slot"):
        daemon.send({"type": "cancel", "job_id": name})
        assert daemon.wait_terminal(name)["code"] == "cancelled"
    daemon.job("a")
    daemon.wait_terminal("a")
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.job("a")
    daemon.finish()
    assert [line["type"] for line in daemon.terminals()][-2:] == ["result", "result"]
    assert len(daemon.terminals()) == 6


@pytest.mark.parametrize("config", [{"hang_native": True}, {"signal": int(signal.SIGSTOP)}])
def test_a_stalled_worker_is_replaced(
    start_supervisor: StartDaemon, config: dict[str, Any]
) -> None:
    daemon = start_supervisor("--stall-timeout-s", "2")
    daemon.job("stuck", only_on_attempt=1, **config)
    daemon.job("next")
    assert daemon.wait_terminal("stuck")["attempt"] == 2
    assert daemon.wait_terminal("next")["type"] == "result"
    assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "stall"


def test_a_stall_leaves_the_stacks_of_python_on_stderr(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--stall-timeout-s", "0.3")
    daemon.job("stuck", hang=True)
    error = daemon.wait_terminal("stuck")
    assert error["code"] == "poisoned"
    assert error["cause"]["reason"] == "stall"
    daemon.wait_stderr(b"Fatal Python error: Aborted")
    daemon.wait_stderr(b"_pause")


def test_health_reports_a_stopped_worker_as_unresponsive(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    assert daemon.ask_health()["workers"][0]["state"] == "unresponsive"
    os.kill(pid, signal.SIGCONT)
    daemon.wait_health(lambda one: one["workers"][0]["state"] == "ready")


SLOW_TRIM = """
import os
import time
from upscaled_models.fake import FakeEngine

trim = FakeEngine.trim

def slow_trim(self, *, idle_only=False):
    while not idle_only and not os.path.exists(os.environ["TRIM_WHEN"]):
        time.sleep(0.01)
    trim(self, idle_only=idle_only)

FakeEngine.trim = slow_trim
"""


def test_a_trim_is_answered_when_it_is_done(start_supervisor: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_TRIM)
    now = tmp_path / "now"
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path), "TRIM_WHEN": str(now)})
    daemon.job("a")
    daemon.wait_terminal("a")
    daemon.send({"type": "trim", "request_id": "trim"})
    for _ in range(2):
        assert daemon.ask_health()["models_loaded"] == ["fake"]  # health does not wait for it
    now.touch()
    trimmed = daemon.wait_for(lambda line: line.get("models_loaded") == [])
    reports = [line for line in daemon.lines if line["type"] == "health"]
    assert [report.get("request_id") for report in reports] == [None, None, "trim"]
    assert trimmed["workers"][0]["state"] == "ready"
    # Answered once each, at the end of input too.
    daemon.send({"type": "trim", "request_id": "a"}, {"type": "trim", "request_id": "b"})
    daemon.send({"type": "health", "request_id": "c"}, {"type": "trim"})
    assert daemon.finish() == 0
    ids = [line.get("request_id") for line in daemon.lines if line["type"] == "health"]
    assert sorted(ids[3:], key=str) == [None, "a", "b", "c"]


def test_health_has_a_row_for_each_worker(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--workers", "2")
    report = daemon.wait_health(
        lambda one: [row["state"] for row in one["workers"]] == ["ready"] * 2
    )
    assert report["status"] == "ok"
    assert len({row["pid"] for row in report["workers"]}) == 2
    assert all(row["rss_mb"] > 1 for row in report["workers"])


def test_a_leaking_worker_is_replaced_and_no_job_is_charged(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--memory-limit-mb", "150")
    for number in range(30):
        daemon.job(str(number), grow_mb=10, steps=2, step_s=0.05)
    restarted = daemon.wait_status("worker_restarted")
    assert restarted["cause"] == {"reason": "memory"}
    assert daemon.finish() == 0
    assert all(line["attempt"] == 1 for line in daemon.terminals())


def test_sighup_replaces_the_workers_one_by_one(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--workers", "2")
    before = {worker_pid(daemon, 0), worker_pid(daemon, 1)}
    for number in range(30):
        daemon.job(str(number), steps=4, step_s=0.02)
    os.kill(daemon.pid, signal.SIGHUP)
    report = daemon.wait_health(
        lambda one: (
            not before & {row["pid"] for row in one["workers"]}
            and all(row["state"] in ("ready", "busy") for row in one["workers"])
        )
    )
    assert all(row["last_restart"] == {"reason": "reload"} for row in report["workers"])
    assert daemon.finish() == 0
    assert all(line["attempt"] == 1 for line in daemon.terminals())
    assert len(daemon.terminals()) == 30


def test_sigterm_finishes_the_jobs_within_the_grace(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--grace-s", "30")
    for number in range(4):
        daemon.job(str(number), steps=5, step_s=0.02)
    daemon.wait_progress("0")
    os.kill(daemon.pid, signal.SIGTERM)
    assert daemon.wait() == 0
    assert [line["type"] for line in daemon.terminals()] == ["result"] * 4


def test_a_host_that_stops_reading_gets_every_result_later(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.wait_status("ready")
    daemon.stop_reading()
    for number in range(3000):
        daemon.job(str(number), steps=3)
    daemon.resume_reading()
    assert daemon.finish() == 0
    ends = [line["job_id"] for line in daemon.terminals()]
    assert sorted(ends, key=int) == [str(number) for number in range(3000)]


def test_a_worker_has_the_environment_of_its_own_gpu(start_supervisor: StartDaemon) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "2,5"}
    daemon = start_supervisor("--no-template", "--device", "cuda:1", env=env)
    environment = Path(f"/proc/{worker_pid(daemon)}/environ").read_bytes().split(b"\0")
    assert b"CUDA_VISIBLE_DEVICES=5" in environment
