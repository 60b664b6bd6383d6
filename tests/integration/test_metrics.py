"""Prometheus metrics of a supervisor, over real HTTP."""

from __future__ import annotations

import socket
import urllib.request
from typing import TYPE_CHECKING

import psutil
from prometheus_client.parser import text_string_to_metric_families

from waiting import TIMEOUT_S

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon

# The kernel chooses the port.
SERVED = ("--metrics-address", "127.0.0.1:0")


def scrape(daemon: Daemon) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The metrics of a daemon that has started."""
    connections = psutil.Process(daemon.pid).net_connections("tcp")
    (port,) = {one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN}
    url = f"http://127.0.0.1:{port}/metrics"
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_count_jobs_durations_and_restarts(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor(*SERVED)
    daemon.job("good", steps=2)
    daemon.job("bad", raise_text="boom")
    daemon.job("deadly", exit_code=3, only_on_attempt=1)
    for name in ("good", "bad", "deadly"):
        daemon.wait_terminal(name)
    metrics = scrape(daemon)
    assert metrics["upscaled_jobs_total", (("method", "fake"), ("outcome", "completed"))] == 2
    assert metrics["upscaled_jobs_total", (("method", "fake"), ("outcome", "internal"))] == 1
    assert metrics["upscaled_worker_restarts_total", (("reason", "exit"),)] == 1
    assert metrics["upscaled_job_duration_seconds_count", (("method", "fake"),)] == 3
    assert metrics["upscaled_worker_up", (("worker", "0"),)] == 1
    assert metrics["upscaled_worker_resident_memory_bytes", (("worker", "0"),)] > 1e6
    assert metrics["upscaled_queue_size", ()] == 0


def test_a_port_in_use_is_reported_and_tried_again(start_supervisor: StartDaemon) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        daemon = start_supervisor("--metrics-address", address)
        assert "cannot serve metrics" in daemon.wait_status("degraded")["detail"]
        daemon.job("a")  # the daemon works all the same
        assert daemon.wait_terminal("a")["type"] == "result"
        report = daemon.ask_health()
        assert report["status"] == "degraded"
        assert address in report["detail"]
    report = daemon.wait_health(lambda one: one["status"] == "ok")
    assert "detail" not in report
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        assert b"upscaled_jobs_total" in answer.read()
