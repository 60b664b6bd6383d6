"""A supervisor in memory: its host, its workers, its signals and its clock belong to the test.

The supervisor runs in the test's own process, on real pipes. Whenever it would wait, the simulated
workers act; if they have nothing to do either, the clock jumps to the end of the wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from simulated_system import READ_BYTES, Line, SimulatedSystem, SimulatedWorker
from upscaled_protocol.lines import encode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.stdio import Wire
from upscaled_supervisor.loop import Supervisor
from upscaled_supervisor.options import read_options
from upscaled_supervisor.poller import Poller

# Of simulated time: longer than any timeout of a test.
_WAIT_S = 3600.0
# Turns without simulated time passing: more than any test needs.
_MOST_TURNS = 20_000


class SimulatedPoller(Poller):
    """Never waits: the workers act, and if none has anything to do, the clock jumps."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation

    def run_once(self, timeout_s: float) -> bool:
        self._simulation.read_stdout()
        self._simulation.write_stdin()
        has_acted = self._simulation.system.act()
        is_ready = super().run_once(0.0)
        if not is_ready and not has_acted:
            self._simulation.system.time += max(timeout_s, 0.0)
        return is_ready


class Simulation:
    """A supervisor, and the test as its host."""

    def __init__(self, *options: str) -> None:
        self.lines: list[Line] = []
        self.exit_status: int | None = None
        self.system = SimulatedSystem()
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        os.set_blocking(self._stdout, False)
        os.set_blocking(self._stdin, False)
        self._unsent = bytearray()
        self._has_ended = False  # the host's input
        self._is_reading = True
        self._stderr = os.memfd_create("stderr")
        self._ours = [stdin, self._stdout, stdout, self._stderr]
        self._output = b""
        log = Logger(self._stderr, component="supervisor")
        self.supervisor = Supervisor(
            Wire(stdin, stdout),
            read_options(["--methods", "fake", *options]),
            log,
            self.system,
            SimulatedPoller(self),
        )

    def start(self) -> Simulation:
        """Start the supervisor; its workers are ready when it has waited for the first time."""
        assert self.supervisor.start()
        return self

    # --- the host ---

    def send(self, *messages: Line | bytes) -> None:
        """Write lines: messages, or bytes as they are."""
        for one in messages:
            self._unsent += one if isinstance(one, bytes) else encode_line(one)

    def job(self, job_id: str, *, config: Line | None = None, **fields: Any) -> None:
        """Send one job."""
        self.send({"job_id": job_id, "method": "fake", "config": config or {}} | fields)

    def cancel(self, *job_ids: str) -> None:
        """Cancel jobs."""
        self.send(*({"type": "cancel", "job_id": job_id} for job_id in job_ids))

    def stop_reading(self) -> None:
        """Leave the supervisor's lines unread from now on."""
        self._is_reading = False

    def resume_reading(self) -> None:
        self._is_reading = True

    def close_stdout(self) -> None:
        """Read no more, for good."""
        os.close(self._stdout)
        self._is_reading = False
        self._ours.remove(self._stdout)

    def read_stdout(self) -> None:
        """Read what the supervisor has written."""
        with contextlib.suppress(BlockingIOError):
            while self._is_reading and (chunk := os.read(self._stdout, READ_BYTES)):
                *lines, self._output = (self._output + chunk).split(b"\n")
                self.lines += map(orjson.loads, lines)

    def close_stdin(self) -> None:
        """End the supervisor's input, after what was sent."""
        self._has_ended = True

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait because the supervisor does not read on."""
        return len(self._unsent)

    def write_stdin(self) -> None:
        """Write what was sent, as much as the pipe takes."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                del self._unsent[: os.write(self._stdin, self._unsent)]
        if self._has_ended and not self._unsent and self._stdin >= 0:
            os.close(self._stdin)
            self._stdin = -1

    # --- waiting ---

    def turn(self) -> None:
        """Let the supervisor run until it would wait."""
        assert not self.supervisor.is_done(), f"the supervisor has ended: {self.lines[-5:]}"
        self.supervisor.turn()
        self.read_stdout()

    def settle(self) -> None:
        """Let everybody act until nothing is left to do at this time."""
        now = self.system.time
        for _ in range(_MOST_TURNS):
            self.turn()
            if self.system.time > now:
                return
        pytest.fail("there is no end")

    def run_for(self, seconds: float) -> None:
        """Let this much time pass."""
        end = self.system.time + seconds
        while self.system.time < end:
            self.turn()

    def wait_until(self, condition: Callable[[], object], what: str) -> None:
        """Run until the condition holds."""
        end = self.system.time + _WAIT_S
        turns = 0
        while not condition():
            turns += 1
            if self.system.time > end or turns > _MOST_TURNS:
                pytest.fail(f"no {what}; last: {self.lines[-5:]}; stderr: {self.stderr[-2000:]!r}")
            self.turn()

    def wait_for(self, condition: Callable[[Line], object], what: str = "such line") -> Line:
        """The first line, past or to come, that meets the condition."""
        found: list[Line] = []
        seen = 0

        def is_found() -> bool:
            nonlocal seen
            found.extend(line for line in self.lines[seen:] if condition(line))
            seen = len(self.lines)
            return bool(found)

        self.wait_until(is_found, what)
        return found[0]

    def wait_status(self, message: str) -> Line:
        return self.wait_for(lambda line: line.get("message") == message, f"status {message}")

    def wait_accepted(self, job_id: str) -> Line:
        return self.wait_for(
            lambda line: (line["type"], line.get("job_id")) == ("accepted", job_id),
            f"acceptance of job {job_id}",
        )

    def wait_terminal(self, job_id: str) -> Line:
        """The result or error of a job."""
        return self.wait_for(
            lambda line: line["type"] in ("result", "error") and line.get("job_id") == job_id,
            f"end of job {job_id}",
        )

    def wait_workers(self, count: int) -> SimulatedWorker:
        """The newest worker, once this many have been started."""
        self.wait_until(lambda: len(self.workers) >= count, f"worker number {count}")
        assert len(self.workers) == count
        return self.worker

    def wait_held(self, job_id: str) -> SimulatedWorker:
        """The worker that has a job."""
        self.wait_until(lambda: self.holder(job_id), f"worker with job {job_id}")
        worker = self.holder(job_id)
        assert worker is not None
        return worker

    def holder(self, job_id: str) -> SimulatedWorker | None:
        return next((one for one in self.system.living if job_id in one.jobs), None)

    def ask_health(self) -> Line:
        """A fresh report."""
        known = len(self._reports)
        self.send({"type": "health"})
        self.wait_until(lambda: len(self._reports) > known, "health")
        return self._reports[known]

    @property
    def _reports(self) -> list[Line]:
        return [line for line in self.lines if line["type"] == "health"]

    def wait_health(self, condition: Callable[[Line], object]) -> Line:
        """Ask until the report meets the condition."""
        end = self.system.time + _WAIT_S
        while not condition(report := self.ask_health()):
            assert self.system.time < end, report
            self.run_for(0.1)
        return report

    def terminals(self) -> list[Line]:
        """Every terminal event so far."""
        return [line for line in self.lines if line["type"] in ("result", "error")]

    def wait(self) -> int:
        """The exit status."""
        self.exit_status = self.supervisor.run()
        self.read_stdout()
        return self.exit_status

    def finish(self) -> int:
        """End the input and wait."""
        self.close_stdin()
        return self.wait()

    @property
    def stderr(self) -> bytes:
        """All that was logged."""
        return os.pread(self._stderr, 2**24, 0)

    # --- the machine ---

    @property
    def workers(self) -> list[SimulatedWorker]:
        """All workers, in the order of their starts."""
        return self.system.workers

    @property
    def worker(self) -> SimulatedWorker:
        """The newest worker."""
        return self.workers[-1]

    def kill(self) -> None:
        """Kill the supervisor: its journal stays as it is, and its workers go with it."""
        self.read_stdout()
        self.supervisor._fleet.kill()
        if (journal := self.supervisor._ledger.journal) is not None:
            journal._db.close()
        self.exit_status = -signal.SIGKILL

    def close(self) -> None:
        """End everything; a supervisor that still runs is killed."""
        if self.exit_status is None:
            self.kill()
        for fd in (*self._ours, self._stdin, self.supervisor._host.watch_fd):
            if fd >= 0:
                os.close(fd)
        self.system.close()


@contextlib.contextmanager
def simulated(*options: str) -> Iterator[Simulation]:
    """A supervisor with these options that has just started."""
    simulation = Simulation(*options)
    try:
        yield simulation.start()
    finally:
        simulation.close()
