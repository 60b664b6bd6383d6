"""Whatever a worker or a fork server writes, its supervisor goes on, and each job ends once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled_protocol.envelope import open_envelope
from upscaled_protocol.log import Logger
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.child import Child, open_pipes
from upscaled_supervisor.fleet import Fleet
from upscaled_supervisor.forkserver import read_notice
from upscaled_supervisor.health import HealthDesk
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import read_options
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.queue import Job

READY = {
    "type": "status",
    "message": "ready",
    "methods": ["fake"],
    "models": ["fake"],
    "device": "fake",
    "lanes": {"device": {"methods": ["fake"], "slots": 2}},
    "pid": 4711,
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


class Sink:
    """Takes all that the host is told."""

    fd = -1

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: memoryview) -> int:
        self.written += bytes(data)
        return len(data)


class Stage:
    """A fleet without processes: one worker, ready, with the job `a`."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        options = read_options(["--methods", "fake"])
        self.sink = Sink()
        outbox = Outbox(self.sink)
        null = os.open(os.devnull, os.O_WRONLY)
        log = Logger(null)
        self.ledger = Ledger(outbox, log, 10)
        self.fleet = Fleet(
            options, self.ledger, Poller(), log, lambda line: outbox.put(orjson.dumps(line) + b"\n")
        )
        self.desk = HealthDesk(self.fleet, self.ledger)
        theirs, ours = open_pipes()
        self._fds += [null, *theirs]
        self._to_supervisor = theirs[1]
        slot = self.fleet.slots[0]
        self.child = slot.child = Child(0, 0, slot.placement, ours)
        self.fleet.children[0] = self.child
        self.fleet._next_number = 1  # a successor's number
        self.outbox = outbox
        self.say(orjson.dumps(READY))
        line = b'{"job_id":"a","method":"fake"}'
        self.ledger.accept(Job(open_envelope(line), line))
        self.fleet.dispatch()

    def say(self, line: bytes) -> None:
        """Have the worker write a line, and the supervisor read it."""
        os.write(self._to_supervisor, line + b"\n")
        self.fleet._read_stdout(self.child)

    def exit(self) -> None:
        """Have the worker exit, as its fork server tells."""
        self.child.pid = 2**22 + 1  # more than the system gives to any process
        self.fleet._closing = True  # no other is started
        self.fleet._bury_pid(self.child.pid, 9)

    def ends(self) -> list[dict[str, Any]]:
        self.outbox.flush()
        lines = [orjson.loads(line) for line in self.sink.written.splitlines()]
        return [line for line in lines if line["type"] in ("result", "error")]

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    made = Stage()
    try:
        yield made
    finally:
        made.fleet.kill()
        made.close()


@given(st.lists(mutated(), min_size=1, max_size=4))
def test_no_line_of_a_worker_ends_the_supervisor_or_loses_a_job(lines: list[bytes]) -> None:
    with stage() as one:
        for line in lines:
            one.say(line)
        one.desk.report(draining=False, dropped_progress=0, request_id=None)
        one.fleet.tick(0.0)
        one.exit()
        ended = one.ends()
        waits = [job.job_id for job in one.ledger.queue]
        # It has ended, or it runs again.
        assert len(ended) + len(waits) == 1
        assert [*one.ledger.jobs] == waits


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
        READY | {"methods": None},
        READY | {"methods": [[]]},
        READY | {"pid": 2**80},
        READY | {"detail": {}},
        HEALTH | {"models_loaded": "x"},
        HEALTH | {"models_loaded": [["x"]]},
        HEALTH | {"gpu_memory_free": "much"},
    ],
)
def test_a_field_of_another_type_is_the_workers_violation(fields: dict[str, Any]) -> None:
    with stage() as one:
        line = orjson.dumps({**fields, "pid": 2**63}) if fields.get("pid") == 2**80 else None
        one.say(line or orjson.dumps(fields))
        assert one.child.end_cause is not None
        assert one.child.end_cause["reason"] == "protocol_violation"
        one.exit()
        assert [job.attempts for job in one.ledger.queue] == [1]  # it is to run again


@pytest.mark.parametrize("budget", [b"1e999", b"1" * 400, b"NaN", b"-Infinity"])
def test_a_number_that_is_none_is_the_workers_violation(budget: bytes) -> None:
    line = b'{"type":"progress","job_id":"a","progress":1,"stage":"\\ud800","budget_s":%b}' % budget
    with stage() as one:
        one.say(line)
        assert one.child.end_cause is not None
        one.desk.report(None, draining=False, dropped_progress=0)


def test_an_exception_while_a_line_is_handled_is_the_workers_violation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with stage() as one:
        monkeypatch.setattr(one.ledger, "progress", fail)
        one.say(orjson.dumps(PROGRESS))
        assert one.child.end_cause is not None
        assert one.child.end_cause["reason"] == "protocol_violation"


def test_a_worker_that_says_ready_again_takes_no_other_place() -> None:
    with stage() as one:
        one.child.state = "draining"
        one.say(orjson.dumps(READY))
        assert one.child.state == "draining"


@pytest.mark.parametrize("lacking", [{"unavailable": {"fake": "no luck: pull it"}}, {}])
def test_a_successor_takes_over_only_if_what_it_does_not_serve_lacks_files(
    lacking: dict[str, Any],
) -> None:
    with stage() as one:
        theirs, ours = open_pipes()
        successor = Child(1, 0, one.child.placement, ours)
        successor.replaces = one.child
        one.fleet.children[1] = successor
        os.write(theirs[1], orjson.dumps(READY | {"methods": []} | lacking) + b"\n")
        one.fleet._read_stdout(successor)
        states = ("draining", "ready") if lacking else ("ready", "starting")
        assert (one.child.state, successor.state) == states
        assert bool(successor.end_cause) is not bool(lacking)
        for fd in theirs:
            os.close(fd)


def test_a_pid_that_is_no_child_of_the_fork_server_is_not_taken_for_the_workers() -> None:
    with stage() as one:
        assert one.child.pid is None


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
def test_what_is_no_notice_of_a_fork_server_is_told_as_that(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"fork server wrote|unexpected|expected"):
        read_notice(line)
