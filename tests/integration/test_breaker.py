"""A bad job, a bad setting and a bad machine are three different things."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


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
