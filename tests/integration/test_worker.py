"""A bare worker, driven over its pipes as a host would."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


def test_a_job_is_accepted_and_ends_in_one_result(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.wait_status("ready")
    worker.job("a", steps=3, step_s=0.03)
    result = worker.wait_terminal("a")
    assert result["status"] == "completed"
    assert worker.finish() == 0
    kinds = [line["type"] for line in worker.lines if line.get("job_id") == "a"]
    assert kinds[0] == "accepted"
    assert kinds[-1] == "result"
    assert kinds.count("result") == 1
    assert worker.lines[-1]["message"] == "stopped"


def test_prints_from_python_c_and_a_subprocess_never_reach_stdout(
    start_worker: StartDaemon,
) -> None:
    worker = start_worker()
    worker.job("a", print_text="from python", c_print_text="from c", subprocess_text="from a child")
    worker.wait_terminal("a")
    worker.finish()
    assert all(raw.startswith(b'{"type":') for raw in worker.raw)
    for text in (b"from python", b"from c", b"from a child"):
        assert text in worker.stderr


def test_terminate_drains_and_a_second_signal_ends_it_now(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", steps=100_000, step_s=0.01)
    worker.wait_progress("a")
    worker.process.terminate()
    worker.wait_status("draining")
    worker.job("late")
    assert worker.wait_terminal("late")["code"] == "shutting_down"
    worker.process.terminate()
    assert worker.wait() == 128 + 15


def chat(worker: Daemon) -> None:
    with contextlib.suppress(OSError):
        while worker.process.poll() is None:
            worker.send(b'{"type":"health"}\n' * 100)


def test_terminate_breaks_no_line_that_is_being_written(start_worker: StartDaemon) -> None:
    for _ in range(3):
        worker = start_worker()
        worker.wait_status("ready")
        host = threading.Thread(target=chat, args=(worker,))
        host.start()
        worker.wait_for(lambda line: line["type"] == "health")
        worker.process.terminate()
        assert worker.wait() == 0
        host.join()
        assert [line["message"] for line in worker.lines if line["type"] == "status"] == [
            "loading_models",
            "ready",
            "draining",
            "stopped",
        ]


def test_the_fake_engine_writes_in_the_allowed_folders_alone(
    start_worker: StartDaemon, tmp_path: Path
) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    worker = start_worker("--allow-root", str(inside))
    paths = (outside / "a", inside / "link" / "a", inside / ".." / "outside" / "a")
    for number, path in enumerate(paths):
        worker.job(str(number), output_path=str(path), output_text="a")
        assert worker.wait_terminal(str(number))["code"] == "path_not_allowed"
    assert not list(outside.iterdir())
    worker.job("in", output_path=str(inside / "a"), output_text="a")
    assert worker.wait_terminal("in")["type"] == "result"
    assert (inside / "a").read_text() == "a"
