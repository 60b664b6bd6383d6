"""A supervisor in memory: its host, its workers, its signals and its clock belong to the test.

The supervisor runs in the test's own process, on real pipes. Whenever it would wait, the simulated
workers act; if they have nothing to do either, the clock jumps to the end of the wait.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from upscaled_protocol.lines import LineSplitter, decode_line, encode_line
from upscaled_protocol.log import Logger
from upscaled_protocol.stdio import Wire
from upscaled_supervisor.forkserver import ForkServer
from upscaled_supervisor.loop import Supervisor
from upscaled_supervisor.options import read_options
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.system import System

Line = dict[str, Any]

# Of simulated time: longer than any timeout of a test.
_WAIT_S = 3600.0
# Turns without simulated time passing: more than any test needs.
_MOST_TURNS = 20_000
_READ_BYTES = 1024 * 1024


class SimulatedWorker:
    """A worker with one device lane that holds two jobs, of which one runs.

    By itself it answers every request, and does what a job's config asks: `hang`, `exit_code`,
    `signal`, each only on attempt `only_on_attempt` if that is given. Everything else the test
    does: `progress`, `finish`, `write`, `exit`.
    """

    def __init__(
        self, simulation: Simulation, number: int, argv: list[str], env: dict[str, str], fds: list[int]
    ) -> None:
        self._simulation = simulation
        self._stdin, self._stdout, self._stderr = map(os.dup, fds)
        os.set_blocking(self._stdin, False)
        self._lines = LineSplitter(2**40)
        self.number = number  # of the request for it
        self.pid = 1_000_000 + number
        self.argv = argv
        self.env = env
        self.received: list[Line] = []
        self.jobs: dict[str, Line] = {}  # that have not ended; the first one runs
        self.resident_mb = 100.0
        self.is_stopped = False  # by SIGSTOP
        self.is_draining = False
        self.has_exited = False

    # --- what a test makes it do ---

    def write(self, data: bytes) -> None:
        """Write bytes on its stdout."""
        if not self.has_exited:
            os.write(self._stdout, data)

    def send(self, **message: Any) -> None:
        """Write one message."""
        self.write(encode_line(message))

    def log(self, text: str) -> None:
        """Print a line on its stderr."""
        os.write(self._stderr, text.encode() + b"\n")

    def ready(self, **fields: Any) -> None:
        """Report that it is ready."""
        message = {
            "type": "status",
            "message": "ready",
            "protocol": 1,
            "methods": ["fake"],
            "models": ["fake"],
            "device": "fake",
            "lanes": {"device": {"methods": ["fake"], "slots": 2}},
            "pid": self.pid,
        }
        self.send(**message | fields)

    def progress(self, job_id: str, percent: float = 0.0, stage: str = "step", **fields: Any) -> None:
        """Report a job's progress."""
        self.send(type="progress", job_id=job_id, progress=percent, stage=stage, **fields)

    def finish(self, job_id: str) -> None:
        """End a job with its result; the next one starts."""
        job = self.jobs.pop(job_id)
        self.send(type="result", job_id=job_id, status="completed", attempt=job.get("attempt", 1))
        self._after_job()

    def fail(self, job_id: str, code: str, **fields: Any) -> None:
        """End a job with an error; the next one starts."""
        self.jobs.pop(job_id)
        self.send(
            type="error", job_id=job_id, error=f"a {code}", code=code, retryable=False, **fields
        )
        self._after_job()

    def close_stdout(self) -> None:
        """Close its stdout and go on."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self._stdout)
        os.close(null)

    def exit(self, code: int) -> None:
        """Exit by itself."""
        self._end(code << 8)

    def receive_signal(self, signum: int) -> None:
        """As the kernel delivers it."""
        if signum == signal.SIGSTOP:
            self.is_stopped = True
        elif signum == signal.SIGCONT:
            self.is_stopped = False
        elif signum == signal.SIGKILL or (signum == signal.SIGABRT and not self.is_stopped):
            self._end(signum)
        elif signum == signal.SIGTERM:
            self.send(type="status", message="draining", detail="SIGTERM")
            self.is_draining = True
            self._after_job()

    # --- what it does by itself ---

    def act(self) -> bool:
        """Read and handle what the supervisor has written; False if that was nothing."""
        if self.has_exited or self.is_stopped:
            return False
        try:
            chunk = os.read(self._stdin, _READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self.exit(0)
            return True
        for line in self._lines.feed(chunk):
            assert line is not None
            self._handle(decode_line(line))
        return True

    def _handle(self, message: Line) -> None:
        self.received.append(message)
        match message.get("type", "job"):
            case "job":
                self.jobs[message["job_id"]] = message
                if len(self.jobs) == 1:
                    self._run_first()
                else:
                    self.progress(message["job_id"], stage="waiting")
            case "cancel" if message["job_id"] in self.jobs:
                if not self.jobs[message["job_id"]]["config"].get("ignore_cancel"):
                    self.fail(message["job_id"], "cancelled")
            case "health" | "trim":
                self.send(type="health", status="ok", models_loaded=["fake"], queue_size=0)
            case "shutdown":
                self.is_draining = True
                self._after_job()

    def _run_first(self) -> None:
        job_id, job = next(iter(self.jobs.items()))
        config = job["config"]
        is_good = config.get("only_on_attempt") not in (None, job.get("attempt", 1))
        if "exit_code" in config and not is_good:
            self.exit(config["exit_code"])
        elif "signal" in config and not is_good:
            self.receive_signal(config["signal"])
        elif config.get("hang") and not is_good:
            self.progress(job_id)
        else:
            self.finish(job_id)

    def _after_job(self) -> None:
        if self.jobs:
            self._run_first()
        elif self.is_draining and not self.has_exited:
            self.send(type="status", message="stopped")
            self.exit(0)

    def _end(self, status: int) -> None:
        if not self.has_exited:
            self.has_exited = True
            self.jobs.clear()
            for fd in (self._stdin, self._stdout, self._stderr):
                os.close(fd)
            self._simulation.system.report({"exited": self.pid, "status": status})


class SimulatedForkServer(ForkServer):
    """Makes simulated workers, and reports their exits unless it `is_stopped`."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self.pid = 999_999
        self.fd, self._notify = os.pipe()
        self._notices: list[Line] = []
        self.is_stopped = False
        self.holds_pids_back = False  # it reports exits, and no pid
        self._is_closed = False
        self.exit_code: int | None = None

    def report(self, notice: Line) -> None:
        if "pid" in notice and self.holds_pids_back:
            return
        self._notices.append(notice)
        self.wake()

    def wake(self) -> None:
        if not self.is_stopped and not self._is_closed:
            os.write(self._notify, b".")

    def read(self) -> list[Line] | None:
        os.read(self.fd, _READ_BYTES)
        if self.exit_code is not None:
            return None
        notices, self._notices = self._notices, []
        return notices

    def spawn(self, number: int, argv: list[str], env: dict[str, str], stdio: list[int]) -> None:
        if self._simulation.system.spawns_fail:
            self.report({"spawn": number, "failed": "Too many open files"})
        else:
            self._simulation.add_worker(number, argv, env, stdio)

    def end(self, exit_code: int) -> None:
        """Exit, or be killed: no worker survives that."""
        self.exit_code = exit_code
        self.is_stopped = False
        self.wake()

    def close(self) -> None:
        self._is_closed = True
        os.close(self.fd)
        os.close(self._notify)

    def wait(self) -> int:
        for worker in self._simulation.workers:
            worker.receive_signal(signal.SIGKILL)
        return self.exit_code or 0

    def reap(self) -> None:
        pass


class SimulatedSystem(System):
    """Time passes at once, and processes are objects."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._signals, self._notify = os.pipe()
        self.time = 1000.0
        self.fork_server: SimulatedForkServer | None = None
        self.fork_servers_started = 0
        self.has_no_room = False  # for a fork server
        self.spawns_fail = False
        self.oom_kills = 0
        self.free_mb = 100_000.0

    def raise_signal(self, signum: int) -> None:
        """Send a signal to the supervisor."""
        os.write(self._notify, bytes([signum]))

    def report(self, notice: Line) -> None:
        if self.fork_server is not None:
            self.fork_server.report(notice)

    def now(self) -> float:
        return self.time

    def catch_signals(self) -> int:
        return self._signals

    def start_fork_server(self, worker_argv: list[str], *, template: bool) -> ForkServer:
        if self.has_no_room:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.fork_servers_started += 1
        self.fork_server = SimulatedForkServer(self._simulation)
        return self.fork_server

    def adopt_orphans(self) -> None:
        pass

    def child_pids(self, pid: int) -> list[int]:
        return [worker.pid for worker in self._simulation.living]

    def send_signal(self, pid: int, signum: int) -> None:
        self._simulation.worker_of(pid).receive_signal(signum)

    def kill_group(self, leader_pid: int) -> None:
        if self.fork_server is not None and leader_pid == self.fork_server.pid:
            self.fork_server.end(-signal.SIGKILL)

    def kill_descendants(self) -> None:
        self.fork_server = None
        for worker in self._simulation.living:
            worker.receive_signal(signal.SIGKILL)

    def has_exited(self, pid: int) -> bool:
        return self._simulation.worker_of(pid).has_exited

    def resident_mb(self, pid: int) -> float | None:
        worker = self._simulation.worker_of(pid)
        return None if worker.has_exited else worker.resident_mb

    def available_mb(self) -> float:
        return self.free_mb

    def count_oom_kills(self) -> int:
        return self.oom_kills

    def close(self) -> None:
        os.close(self._signals)
        os.close(self._notify)


class SimulatedPoller(Poller):
    """Never waits: the workers act, and if none has anything to do, the clock jumps."""

    def __init__(self, simulation: Simulation) -> None:
        super().__init__()
        self._simulation = simulation

    def run_once(self, timeout_s: float) -> bool:
        self._simulation.read_stdout()
        has_acted = self._simulation.act()
        is_ready = super().run_once(0.0)
        if not is_ready and not has_acted:
            self._simulation.pass_time(max(timeout_s, 0.0))
        return is_ready


class Simulation:
    """A supervisor, and the test as its host. `starts` is called with each new worker, which is
    ready at once by default."""

    def __init__(self, *options: str) -> None:
        self.workers: list[SimulatedWorker] = []  # all, in the order of their starts
        self.starts: Callable[[SimulatedWorker], None] = SimulatedWorker.ready
        self.lines: list[Line] = []
        self.exit_status: int | None = None
        self.system = SimulatedSystem(self)
        stdin, self._stdin = os.pipe()
        self._stdout, stdout = os.pipe()
        os.set_blocking(self._stdout, False)
        self._is_reading = True
        self._stderr = os.memfd_create("stderr")
        self._ours = [stdin, self._stdout, stdout, self._stderr]
        self._output = b""
        self._later: list[tuple[float, Callable[[], None]]] = []
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
            os.write(self._stdin, one if isinstance(one, bytes) else encode_line(one))

    def job(self, job_id: str, *, config: Line | None = None, **fields: Any) -> None:
        """Send one job."""
        self.send({"job_id": job_id, "method": "fake", "config": config or {}} | fields)

    def cancel(self, *job_ids: str) -> None:
        """Cancel jobs."""
        self.send(*({"type": "cancel", "job_id": job_id} for job_id in job_ids))

    def stop_reading(self) -> None:
        """Leave the supervisor's lines unread from now on."""
        self._is_reading = False

    def read_stdout(self) -> None:
        """Read what the supervisor has written."""
        with contextlib.suppress(BlockingIOError):
            while self._is_reading and (chunk := os.read(self._stdout, _READ_BYTES)):
                *lines, self._output = (self._output + chunk).split(b"\n")
                self.lines += map(orjson.loads, lines)

    def close_stdin(self) -> None:
        """End the supervisor's input."""
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

    def wait_held(self, job_id: str) -> SimulatedWorker:
        """The worker that has a job."""
        self.wait_until(lambda: self.holder(job_id), f"worker with job {job_id}")
        worker = self.holder(job_id)
        assert worker is not None
        return worker

    def holder(self, job_id: str) -> SimulatedWorker | None:
        return next((one for one in self.living if job_id in one.jobs), None)

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

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something when this much time has passed."""
        self._later.append((self.system.time + seconds, act))
        self._later.sort(key=lambda one: one[0])

    @property
    def living(self) -> list[SimulatedWorker]:
        """The workers that have not exited."""
        return [worker for worker in self.workers if not worker.has_exited]

    @property
    def worker(self) -> SimulatedWorker:
        """The newest worker."""
        return self.workers[-1]

    def worker_of(self, pid: int) -> SimulatedWorker:
        return next(worker for worker in self.workers if worker.pid == pid)

    def add_worker(self, number: int, argv: list[str], env: dict[str, str], fds: list[int]) -> None:
        worker = SimulatedWorker(self, number, argv, env, fds)
        self.workers.append(worker)
        self.system.report({"spawn": number, "pid": worker.pid})
        self.starts(worker)

    def act(self) -> bool:
        """Have every worker act; False if none had anything to do."""
        return any([worker.act() for worker in self.workers])

    def pass_time(self, seconds: float) -> None:
        """Let time pass, or as much of it as there is to the next appointment."""
        end = self.system.time + seconds
        if self._later and self._later[0][0] <= end:
            time, act = self._later.pop(0)
            self.system.time = max(time, self.system.time)
            act()
        else:
            self.system.time = end

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
