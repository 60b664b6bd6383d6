"""Imagen jobs beside each other, beside other jobs, and under a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imagen_host import (
    NOBODY,
    SUPERVISOR,
    Host,
    load,
    photo,
    save,
)
from upscaled_models.imagen.loopback import Loopback, enlarged
from waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


def test_as_many_calls_run_at_once_as_the_operator_allows(
    host: Host, server: Loopback, tmp_path: Path
) -> None:
    server.delay_s = 0.1
    path = save(tmp_path / "in.png", photo(500, 60))
    jobs = [
        host.send(
            path,
            output_path=str(tmp_path / f"{number}.png"),
            upscale_factor="x2",
            tile=True,
            tile_size=200,
        )
        for number in range(6)
    ]
    ends = [host.daemon.wait_terminal(job) for job in jobs]
    assert [end.get("upstream_calls") for end in ends] == [3] * 6
    assert 1 < server.most_at_once <= 4


def test_no_more_calls_are_made_in_a_minute_than_the_operator_allows(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    daemon = start_daemon(
        *SUPERVISOR, "--cloud-calls-per-minute", "2", env=NOBODY | server.environment()
    )
    host = Host(daemon, "rate")
    path = save(tmp_path / "in.png", photo())
    assert [host.run(path)["type"] for _ in range(2)] == ["result"] * 2
    third = host.send(path)
    waits = daemon.wait_for(
        lambda line: line.get("job_id") == third and line.get("stage") == "waiting"
    )
    daemon.send({"type": "cancel", "job_id": third})
    assert daemon.wait_terminal(third)["code"] == "cancelled"
    assert waits["budget_s"] > 0
    assert len(server.questions) == 2


def test_a_cloud_call_and_a_device_job_never_wait_for_each_other(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    daemon = start_daemon(
        "upscaled_supervisor", "--methods", "imagen,fake", env=NOBODY | server.environment()
    )
    host = Host(daemon, "lanes")
    path = save(tmp_path / "in.png", photo())
    calls = [host.send(path, gcp_region="late") for _ in range(9)]
    wait_until(lambda: len(server.questions) == 9, "the calls")
    for number in range(3):
        daemon.job(f"local-{number}", steps=3)
    assert all(daemon.wait_terminal(f"local-{number}")["type"] == "result" for number in range(3))
    daemon.job("hanging-1", hang=True)
    daemon.job("hanging-2", hang=True)
    assert host.run(path)["type"] == "result"
    for job_id in (*calls, "hanging-1", "hanging-2"):
        daemon.send({"type": "cancel", "job_id": job_id})
        assert daemon.wait_terminal(job_id)["code"] == "cancelled"
    wait_until(lambda: server.abandoned == len(calls), "the end of their connections")


def test_a_worker_killed_during_a_call_loses_no_job(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    server.answers = ["late", "late", "late", "right"]
    daemon = start_daemon(*SUPERVISOR, env=NOBODY | server.environment())
    host = Host(daemon, "kill")
    path = save(tmp_path / "in.png", photo())
    outputs = [tmp_path / f"{number}.png" for number in range(3)]
    jobs = [host.send(path, output_path=str(output)) for output in outputs]
    wait_until(lambda: len(server.questions) == 3, "the calls")
    os.kill(daemon.ask_health()["workers"][0]["pid"], signal.SIGKILL)
    for job_id in jobs:
        result = daemon.wait_terminal(job_id)
        # The calls of the second attempt alone: the first one ended without a report.
        assert (result["attempt"], result["upstream_calls"]) == (2, 1)
    assert sorted(line["job_id"] for line in daemon.terminals()) == sorted(jobs)
    assert all(np.array_equal(load(output), enlarged(photo(), 4)) for output in outputs)
    wait_until(lambda: server.abandoned == 3, "the end of the killed worker's calls")
