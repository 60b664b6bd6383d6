"""A bad job, a bad setting and a bad machine are three different things."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.conftest import StartDaemon

BROKEN_ENGINE = """
from upscaled_models.fake import FakeEngine

def broken(self, settings):
    raise OSError("too many of something")

FakeEngine.__init__ = broken
"""


def test_a_worker_that_cannot_start_stops_the_restarts_and_its_reason_is_told(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BROKEN_ENGINE)
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path)})
    daemon.job("early")
    error = daemon.wait_terminal("early")
    assert error["code"] == "worker_crashed"
    assert "many" in error["error"]
    assert "many" in daemon.wait_status("degraded")["detail"]
    daemon.job("later")
    assert "many" in daemon.wait_terminal("later")["error"]
    assert daemon.ask_health()["status"] == "failed"
    assert daemon.finish() == 3
    assert daemon.stderr.count(b'"event":"worker_gone"') == 3


BAD_MACHINE = """
import os, signal, sys
from pathlib import Path

if "upscaled_worker" in sys.orig_argv and Path(__file__).with_name("bad").exists():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_bad_machine_is_answered_for_and_recovers_by_itself(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BAD_MACHINE)
    daemon = start_supervisor("--no-template", env={"PYTHONPATH": str(tmp_path)})
    report = daemon.wait_health(lambda one: one["status"] == "ok")
    bad = tmp_path / "bad"
    bad.touch()
    os.kill(report["workers"][0]["pid"], signal.SIGKILL)
    daemon.wait_status("degraded")
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 4)
    # Jobs are taken, health is answered, nothing is lost meanwhile.
    daemon.job("a")
    daemon.wait_accepted("a")
    report = daemon.ask_health()
    assert report["status"] == "degraded"
    assert report["workers"][0]["state"] in ("backoff", "starting")
    assert report["workers"][0]["last_restart"]["signal"] == "SIGKILL"
    bad.unlink()
    assert daemon.wait_terminal("a")["type"] == "result"
    daemon.wait_health(lambda one: one["status"] == "ok")
    assert daemon.finish() == 0


def test_a_host_that_never_reads_is_not_read_either(start_supervisor: StartDaemon) -> None:
    """Each bad line costs an answer: unread, a hundred megabytes of them must not pile up."""
    daemon = start_supervisor()
    daemon.wait_status("ready")
    daemon.stop_reading()
    lines = 600_000
    sender = threading.Thread(target=daemon.send, args=(b"not json\n" * lines,))
    sender.start()
    daemon.wait_until_idle()  # it reads no more
    assert sender.is_alive()
    assert psutil.Process(daemon.pid).memory_info().rss < 150e6
    daemon.resume_reading()
    sender.join()
    daemon.finish()
    assert sum(line.get("code") == "invalid_json" for line in daemon.lines) == lines
