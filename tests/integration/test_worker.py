"""A bare worker, driven over its pipes as a host would."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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


def test_ready_tells_protocol_version_methods_and_lanes(start_worker: StartDaemon) -> None:
    ready = start_worker().wait_status("ready")
    assert ready["protocol"] == 1
    assert ready["methods"] == ["fake"]
    assert ready["lanes"]["device"] == {"methods": ["fake"], "slots": 2}


def test_progress_never_falls_and_ends_at_100(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", steps=20, step_s=0.03)
    worker.wait_terminal("a")
    percents = [line["progress"] for line in worker.lines if line["type"] == "progress"]
    assert len(percents) > 5
    assert percents == sorted(percents)
    assert percents[-1] == 100


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


def test_a_cancel_before_its_job_is_remembered(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.send({"type": "cancel", "job_id": "a"})
    worker.job("a", hang=True)
    assert worker.wait_terminal("a")["code"] == "cancelled"


def test_a_cancel_stops_a_running_job_and_the_next_one_is_unaffected(
    start_worker: StartDaemon,
) -> None:
    worker = start_worker()
    worker.job("a", steps=100_000, step_s=0.01)
    worker.wait_progress("a")
    worker.send({"type": "cancel", "job_id": "a"})
    assert worker.wait_terminal("a")["code"] == "cancelled"
    worker.job("b", steps=2)
    assert worker.wait_terminal("b")["type"] == "result"


def test_a_cancel_of_a_waiting_job_ends_it_at_once(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("first", steps=100_000, step_s=0.01)
    worker.job("second", steps=100_000, step_s=0.01)
    worker.job("third", steps=1)
    worker.wait_progress("first")
    worker.send({"type": "cancel", "job_id": "third"})
    assert worker.wait_terminal("third")["code"] == "cancelled"
    worker.send({"type": "cancel", "job_id": "second"})
    assert worker.wait_terminal("second")["code"] == "cancelled"
    assert {line["job_id"] for line in worker.terminals()} == {"second", "third"}


def test_a_cancel_after_its_job_changes_nothing_for_the_next_of_that_id(
    start_worker: StartDaemon,
) -> None:
    worker = start_worker()
    worker.job("a")
    worker.wait_terminal("a")
    worker.send({"type": "cancel", "job_id": "a"})
    worker.job("a", steps=2)
    worker.finish()
    assert [line["type"] for line in worker.terminals()] == ["result"] * 2


def test_a_duplicate_is_refused_without_ending_the_first(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", steps=100_000, step_s=0.01)
    worker.job("a")
    refusal = worker.wait_for(lambda line: line.get("code") == "duplicate_job")
    assert refusal["job_id"] is None
    assert refusal["refused_job_id"] == "a"
    worker.send({"type": "cancel", "job_id": "a"})
    assert worker.wait_terminal("a")["code"] == "cancelled"


def test_a_bad_line_with_the_id_of_a_running_job_does_not_end_it(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", steps=100_000, step_s=0.01)
    worker.job("a", method="nonsense")
    refusal = worker.wait_for(lambda line: line.get("code") == "unknown_method")
    assert (refusal["job_id"], refusal["refused_job_id"]) == (None, "a")
    worker.send({"type": "cancel", "job_id": "a"})
    assert worker.wait_terminal("a")["code"] == "cancelled"


def test_higher_priority_starts_first(start_worker: StartDaemon) -> None:
    worker = start_worker()
    for name, priority in (("x", 9), ("y", 9), ("low", -1), ("normal", 0), ("high", 5)):
        config = {"steps": 100_000, "step_s": 0.01}
        worker.send({"job_id": name, "method": "fake", "priority": priority, "config": config})
    worker.wait_progress("x")
    worker.wait_progress("y")  # both slots are taken; the others wait for one
    for leaves, comes in (("x", "high"), ("y", "normal"), ("high", "low")):
        worker.send({"type": "cancel", "job_id": leaves})
        worker.wait_progress(comes)
    begun = [line["job_id"] for line in worker.lines if line["type"] == "progress"]
    assert list(dict.fromkeys(begun))[2:] == ["high", "normal", "low"]


def test_health_answers_while_a_job_hangs(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", steps=100_000, step_s=0.01)
    worker.wait_progress("a")
    report = worker.ask_health()
    assert report["status"] == "ok"
    assert report["in_flight"] == 1


def test_trim_unloads_models_and_answers_with_health(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.job("a", model="some-model")
    worker.wait_terminal("a")
    assert worker.ask_health()["models_loaded"] == ["some-model"]
    worker.send({"type": "health", "request_id": "before"}, {"type": "trim", "request_id": "t"})
    report = worker.wait_for(lambda line: line["type"] == "health" and not line["models_loaded"])
    assert report["request_id"] == "t"
    worker.wait_for(lambda line: line.get("request_id") == "before", "the other answer")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"raise_text": "boom"}, "internal"),
        ({"error_code": "upstream_quota"}, "upstream_quota"),
        ({"out_of_memory": True}, "out_of_memory"),
        ({"output_path": "/proc/nowhere/out.txt"}, "output_unwritable"),
    ],
)
def test_a_failing_job_gives_one_error_and_the_next_works(
    start_worker: StartDaemon, config: dict[str, Any], code: str
) -> None:
    worker = start_worker()
    worker.job("bad", **config)
    worker.job("good")
    error = worker.wait_terminal("bad")
    assert error["code"] == code
    assert ("traceback" in error) == (code == "internal")
    assert worker.wait_terminal("good")["type"] == "result"


def test_timeout_gives_deadline_exceeded(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.send({"job_id": "a", "method": "fake", "timeout_s": 0.1, "config": {"hang": True}})
    assert worker.wait_terminal("a")["code"] == "deadline_exceeded"


def test_end_of_input_finishes_what_was_accepted(start_worker: StartDaemon) -> None:
    worker = start_worker()
    for number in range(5):
        worker.job(str(number), steps=2, step_s=0.01)
    assert worker.finish() == 0
    assert {line["job_id"] for line in worker.terminals()} == set("01234")


def test_shutdown_drains_and_refuses_what_comes_after(start_worker: StartDaemon) -> None:
    worker = start_worker()
    job = {"job_id": "a", "method": "fake", "config": {"steps": 5, "step_s": 0.02}}
    # In one write: the worker may leave as soon as it has read the shutdown.
    worker.send(job, {"type": "shutdown"}, {"job_id": "late", "method": "fake"})
    assert worker.wait_terminal("late")["code"] == "shutting_down"
    assert worker.wait_terminal("a")["type"] == "result"
    assert worker.wait() == 0


def test_a_host_that_stops_reading_gets_every_result_later(start_worker: StartDaemon) -> None:
    worker = start_worker()
    worker.wait_status("ready")
    worker.stop_reading()
    for number in range(3000):
        worker.job(str(number), steps=3)
    worker.resume_reading()
    worker.finish()
    ends = [line["job_id"] for line in worker.terminals()]
    assert sorted(ends, key=int) == [str(number) for number in range(3000)]


def test_the_output_appears_whole(start_worker: StartDaemon, tmp_path: Path) -> None:
    worker = start_worker()
    target = tmp_path / "out.txt"
    worker.job("a", output_path=str(target), output_text="whole")
    assert worker.wait_terminal("a")["output_path"] == str(target)
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


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


def test_end_of_input_answers_every_trim_before(start_worker: StartDaemon) -> None:
    worker = start_worker()
    trims = 3000
    worker.send(b'{"type":"trim"}\n' * trims)
    assert worker.finish() == 0
    assert len([line for line in worker.lines if line["type"] == "health"]) == trims
    assert worker.lines[-1]["message"] == "stopped"


def chat(worker: Daemon) -> None:
    with contextlib.suppress(OSError):
        while True:
            worker.send(b'{"type":"health"}\n' * 100)


def test_terminate_breaks_no_line_that_is_being_written(start_worker: StartDaemon) -> None:
    for _ in range(8):
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
