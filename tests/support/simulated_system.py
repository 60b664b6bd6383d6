"""An operating system in memory for a supervisor: the clock, the fork server and the workers are
objects of the test."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable
from typing import Any

from upscaled_protocol.lines import LineSplitter, decode_line, encode_line
from upscaled_supervisor.forkserver import ForkServer
from upscaled_supervisor.system import System

Line = dict[str, Any]

READ_BYTES = 1024 * 1024


class SimulatedWorker:
    """A worker with one device lane that holds two jobs, of which one runs.

    By itself it answers every request, and does what a job's config asks: `hang`, `silent` (without
    any progress), `exit_code`, `signal`, the others only on attempt `only_on_attempt` if that is
    given. Everything else the test does: `progress`, `finish`, `write`, `exit`.
    """

    def __init__(
        self,
        system: SimulatedSystem,
        number: int,
        argv: list[str],
        env: dict[str, str],
        fds: list[int],
    ) -> None:
        self._system = system
        self._stdin, self._stdout, self._stderr = map(os.dup, fds)
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        self._unwritten = bytearray()
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
        self.holds_trims_back = False  # the test answers them, with `report`
        self.has_exited = False

    # --- what a test makes it do ---

    def write(self, data: bytes) -> None:
        """Write bytes on its stdout, as soon as the pipe takes them."""
        self._unwritten += data
        self._flush()

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

    def report(self) -> None:
        """Answer a `health` or `trim`."""
        self.send(type="health", status="ok", models_loaded=["fake"], queue_size=0)

    def progress(
        self, job_id: str, percent: float = 0.0, stage: str = "step", **fields: Any
    ) -> None:
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

    def _flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unwritten and not self.has_exited:
                del self._unwritten[: os.write(self._stdout, self._unwritten)]

    def act(self) -> bool:
        """Read and handle what the supervisor has written; False if that was nothing."""
        if self.has_exited or self.is_stopped:
            return False
        self._flush()
        try:
            chunk = os.read(self._stdin, READ_BYTES)
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
            case "health":
                self.report()
            case "trim" if not self.holds_trims_back:
                self.report()
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
        elif config.get("silent"):
            return
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
            self._system.report({"exited": self.pid, "status": status})


class SimulatedForkServer(ForkServer):
    """Makes simulated workers, and reports their exits unless it `is_stopped`."""

    def __init__(self, system: SimulatedSystem) -> None:
        self._system = system
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
        os.read(self.fd, READ_BYTES)
        if self.exit_code is not None:
            return None
        notices, self._notices = self._notices, []
        return notices

    def spawn(self, number: int, argv: list[str], env: dict[str, str], stdio: list[int]) -> None:
        if self._system.spawns_fail:
            self.report({"spawn": number, "failed": "Too many open files"})
        elif self._system.reads_options:
            self._system.add_worker(number, argv, env, stdio)

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
        for worker in self._system.workers:
            worker.receive_signal(signal.SIGKILL)
        return self.exit_code or 0

    def reap(self) -> None:
        pass


class SimulatedSystem(System):
    """Time passes at once, and processes are objects."""

    def __init__(self) -> None:
        self._signals, self._notify = os.pipe()
        self.time = 1000.0
        self.workers: list[SimulatedWorker] = []  # all, in the order of their starts
        # Called with each new worker.
        self.starts: Callable[[SimulatedWorker], None] = SimulatedWorker.ready
        self.fork_server: SimulatedForkServer | None = None
        self.fork_servers_started = 0
        self.has_no_room = False  # for a fork server
        self.spawns_fail = False
        # A fork server finds the workers' options right at once. If not, the test says when, and
        # until then no worker starts.
        self.reads_options = True
        self.oom_kills = 0
        self.free_mb = 100_000.0

    # --- what a test makes it do ---

    @property
    def living(self) -> list[SimulatedWorker]:
        """The workers that have not exited."""
        return [worker for worker in self.workers if not worker.has_exited]

    def worker_of(self, pid: int) -> SimulatedWorker:
        return next(worker for worker in self.workers if worker.pid == pid)

    def act(self) -> bool:
        """Have every worker act; False if none had anything to do."""
        acted = [worker.act() for worker in self.workers]
        return any(acted)

    def raise_signal(self, signum: int) -> None:
        """Send a signal to the supervisor."""
        os.write(self._notify, bytes([signum]))

    def report(self, notice: Line) -> None:
        if self.fork_server is not None:
            self.fork_server.report(notice)

    def add_worker(self, number: int, argv: list[str], env: dict[str, str], fds: list[int]) -> None:
        worker = SimulatedWorker(self, number, argv, env, fds)
        self.workers.append(worker)
        self.report({"spawn": number, "pid": worker.pid})
        self.starts(worker)

    # --- what the supervisor calls ---

    def now(self) -> float:
        return self.time

    def catch_signals(self) -> int:
        return self._signals

    def start_fork_server(self, worker_argv: list[str], *, template: bool) -> ForkServer:
        if self.has_no_room:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.fork_servers_started += 1
        self.fork_server = SimulatedForkServer(self)
        if self.reads_options:
            self.report({"usage": None})
        return self.fork_server

    def become_subreaper(self) -> None:
        pass

    def child_pids(self, pid: int) -> list[int]:
        return [worker.pid for worker in self.living]

    def send_signal(self, pid: int, signum: int) -> None:
        self.worker_of(pid).receive_signal(signum)

    def kill_group(self, leader_pid: int) -> None:
        if self.fork_server is not None and leader_pid == self.fork_server.pid:
            self.fork_server.end(-signal.SIGKILL)

    def kill_descendants(self) -> None:
        self.fork_server = None
        for worker in self.living:
            worker.receive_signal(signal.SIGKILL)

    def has_exited(self, pid: int) -> bool:
        return self.worker_of(pid).has_exited

    def resident_mb(self, pid: int) -> float | None:
        worker = self.worker_of(pid)
        return None if worker.has_exited else worker.resident_mb

    def available_mb(self) -> float:
        return self.free_mb

    def count_oom_kills(self) -> int:
        return self.oom_kills

    def close(self) -> None:
        os.close(self._signals)
        os.close(self._notify)
