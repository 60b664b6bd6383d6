"""No line of a worker or a fork server ends the supervisor or loses a job."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulated_system import SimulatedWorker
from simulation import Simulation, simulated
from upscaled_supervisor.forkserver import read_notice
from upscaled_supervisor.ledger import Ledger

READY = {
    "type": "status",
    "message": "ready",
    "methods": ["fake"],
    "models": ["fake"],
    "device": "fake",
    "lanes": {"device": {"methods": ["fake"], "slots": 2}},
    "pid": 1_000_000,
}
PROGRESS = {"type": "progress", "job_id": "a", "progress": 50.0, "stage": "x", "budget_s": 9.5}
RESULT = {"type": "result", "job_id": "a", "processing_time": 0.1, "timings": {"queue": 0.1}}
ERROR = {"type": "error", "job_id": "a", "error": "?", "code": "internal", "retryable": False}
HEALTH = {
    "type": "health",
    "status": "ok",
    "gpu_available": True,
    "gpu_name": "x",
    "gpu_memory_free": 1.5,
    "models_loaded": ["m"],
    "queue_size": 0,
    "uptime_s": 1.0,
}
LEAVING = {"type": "status", "message": "draining", "detail": "SIGTERM"}
MESSAGES = [READY, PROGRESS, RESULT, ERROR, HEALTH, LEAVING]

ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=5)
    | st.sampled_from(["a", "fake", "ready", "completed", "cancelled", "shutting_down", "waiting"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


def paths_of(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        if isinstance(inner, dict | list):
            yield from ((key, *path) for path in paths_of(inner))
        else:
            yield (key,)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A message of a worker with one of its values, however deep, replaced or taken away."""
    message = orjson.loads(orjson.dumps(draw(st.sampled_from(MESSAGES))))
    path = draw(st.sampled_from([path for path in paths_of(message) if path]))
    holder = message
    for key in path[:-1]:
        holder = holder[key]
    if draw(st.booleans()):
        holder[path[-1]] = draw(ANY_VALUE)
    else:
        del holder[path[-1]]
    return orjson.dumps(message)


def loads_for_ever(worker: SimulatedWorker) -> None:
    """A worker that is never ready."""


@contextlib.contextmanager
def holding_a() -> Iterator[Simulation]:
    """A supervisor whose worker has the job `a`."""
    with simulated() as daemon:
        daemon.job("a", config={"hang": True})
        daemon.wait_held("a")
        daemon.settle()
        yield daemon


@settings(max_examples=50)
@given(st.lists(mutated(), min_size=1, max_size=4))
def test_no_line_of_a_worker_ends_the_supervisor_or_loses_a_job(lines: list[bytes]) -> None:
    with holding_a() as daemon:
        daemon.system.starts = loads_for_ever
        for line in lines:
            daemon.worker.write(line + b"\n")
        daemon.ask_health()
        daemon.worker.receive_signal(9)
        daemon.settle()
        # It has ended, or it is to run again.
        ends = [line["job_id"] for line in daemon.terminals()]
        assert (ends, daemon.ask_health()["in_flight"]) in ((["a"], 0), ([], 1))


@pytest.mark.parametrize(
    "fields",
    [
        PROGRESS | {"budget_s": "soon"},
        PROGRESS | {"budget_s": -1},
        PROGRESS | {"progress": True},
        PROGRESS | {"progress": 101},
        PROGRESS | {"stage": 3},
        ERROR | {"code": []},
        ERROR | {"job_id": 7},
        READY | {"lanes": 7},
        READY | {"lanes": {"device": {"methods": ["fake"], "slots": "two"}}},
        READY | {"lanes": {"device": {"methods": ["fake"], "slots": 0}}},
        READY | {"methods": None},
        READY | {"methods": [[]]},
        READY | {"pid": 2**63},
        READY | {"detail": {}},
        HEALTH | {"models_loaded": "x"},
        HEALTH | {"models_loaded": [["x"]]},
        HEALTH | {"gpu_memory_free": "much"},
    ],
)
def test_a_field_of_another_type_is_a_violation(fields: dict[str, Any]) -> None:
    with holding_a() as daemon:
        daemon.worker.write(orjson.dumps(fields) + b"\n")
        daemon.wait_workers(2)
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause["reason"] == "protocol_violation"
        daemon.wait_held("a")
        assert daemon.worker.jobs["a"]["attempt"] == 2


@pytest.mark.parametrize("budget", [b"1e999", b"1" * 400, b"NaN", b"-Infinity"])
def test_a_number_that_no_float_holds_is_a_violation(budget: bytes) -> None:
    line = b'{"type":"progress","job_id":"a","progress":1,"stage":"\\ud800","budget_s":%b}\n'
    with holding_a() as daemon:
        daemon.worker.write(line % budget)
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause["reason"] == "protocol_violation"
        daemon.ask_health()


def test_an_exception_while_a_line_is_handled_is_a_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Ledger, "progress", fail)
    with simulated() as daemon:
        daemon.job("a", config={"hang": True})
        cause = daemon.wait_status("worker_restarted")["cause"]
        assert cause["reason"] == "protocol_violation"
        assert b"ZeroDivisionError" in daemon.stderr


def test_a_pid_that_is_no_process_of_the_fork_server_is_ignored() -> None:
    with simulated() as daemon:
        daemon.settle()
        assert daemon.system.fork_server is not None
        daemon.system.fork_server.holds_pids_back = True
        daemon.system.starts = lambda worker: worker.ready(pid=4711)
        daemon.worker.receive_signal(9)
        restarted = daemon.wait_status("worker_restarted")
        assert "pid" not in restarted


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"[]",
        b"{}",
        b'{"template":"yes"}',
        b'{"spawn":0,"pid":1}',
        b'{"spawn":[],"pid":77}',
        b'{"spawn":0,"pid":99999999999}',
        b'{"spawn":0}',
        b'{"exited":77}',
        b'{"exited":77,"status":-1}',
        b'{"exited":77,"status":99999999999999}',
        b'{"exited":"x","status":0}',
    ],
)
def test_a_line_that_is_no_notice_of_a_fork_server_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"fork server wrote|expected|invalid"):
        read_notice(line)
