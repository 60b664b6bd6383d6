"""The metrics' port, which may not be free when the daemon starts."""

from __future__ import annotations

import errno

import pytest

from simulation import simulated


@pytest.mark.parametrize(
    "fault", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("no new thread")]
)
def test_a_port_that_cannot_be_served_later_ends_no_daemon_that_has_jobs(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [OSError(errno.EADDRINUSE, "Address already in use"), fault, fault]

    def serve(*_: object) -> None:
        if faults:
            raise faults.pop(0)

    monkeypatch.setattr("upscaled_supervisor.metrics.serve_metrics", serve)
    with simulated("--metrics-address", "127.0.0.1:9464") as daemon:
        daemon.job("a", config={"hang": True})
        worker = daemon.wait_held("a")
        assert daemon.ask_health()["status"] == "degraded"
        daemon.wait_health(lambda report: report["status"] == "ok")
        worker.finish("a")
        assert daemon.wait_terminal("a")["type"] == "result"
        assert daemon.finish() == 0


def test_a_machine_without_room_for_the_thread_of_the_metrics_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = [RuntimeError("can't start new thread")]

    def serve(*_: object) -> None:
        if faults:
            raise faults.pop()

    monkeypatch.setattr("upscaled_supervisor.metrics.serve_metrics", serve)
    with simulated("--metrics-address", "127.0.0.1:9464") as daemon:
        assert "can't start new thread" in daemon.wait_status("degraded")["detail"]
        daemon.wait_health(lambda report: report["status"] == "ok")
        assert daemon.finish() == 0
