"""One worker process, as its supervisor sees it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Collection
from typing import Any, Literal

from upscaled_protocol.lineage import kill_group
from upscaled_protocol.lines import READ_SIZE_BYTES, LineSplitter
from upscaled_protocol.memorygroup import count_oom_kills
from upscaled_protocol.outbox import Outbox
from upscaled_supervisor.causes import Cause
from upscaled_supervisor.devices import Placement
from upscaled_supervisor.queue import Job

State = Literal["starting", "ready", "draining", "stopping", "dead"]

# After SIGABRT: time for the stacks of all threads to be written.
ABORT_GRACE_S = 2.0
# A worker's reader answers at once, whatever its engines do; a stopped process never does.
ANSWER_TIMEOUT_S = 1.0
# An idle worker has nothing to finish when it is told to leave, nor has one whose output has ended:
# what takes time is a driver that gives a GPU back.
LEAVE_TIMEOUT_S = 10.0
# Lines of a worker's stderr kept, to say what it said last.
_LAST_WORDS = 20
_MAX_STDERR_LINE_BYTES = 64 * 1024


class Child:
    """A worker's pipes, state and jobs in flight. It decides nothing: `Fleet` does."""

    def __init__(
        self,
        number: int,
        slot: int,
        placement: Placement,
        pipes: list[int],
    ) -> None:
        stdin_fd, stdout_fd, stderr_fd = pipes
        self.number = number  # unique over the supervisor's life
        self.slot = slot  # the place in the fleet that it fills; its device goes by it
        self.state: State = "starting"
        self.pid: int | None = None
        self.placement = placement
        self.ready: dict[str, Any] = {}
        self.lanes: dict[str, dict[str, Any]] = {}
        self.jobs: dict[str, Job] = {}
        self.models: set[str] = set()
        self.spawned_at = time.monotonic()
        self.jobs_done = 0
        self.reserved_for: Job | None = None  # gets it alone, once it has nothing else
        self._oom_kills_before = count_oom_kills()
        # The worker that it is to take over from, why, and the models it loads for that.
        self.replaces: Child | None = None
        self.replaces_for: Cause | None = None
        self.inherited: list[str] = []
        # Set when the supervisor itself ends it: not the jobs' fault but that of the `culprits`.
        self.end_cause: Cause | None = None
        self.culprits: Collection[Job] = ()
        self.kill_at: float | None = None
        self.was_killed = False
        self.health: dict[str, Any] | None = None
        self.health_asked_at: float | None = None
        self.trims_due = 0  # asked for, and not answered yet
        self.last_words: deque[bytes] = deque(maxlen=_LAST_WORDS)
        os.set_blocking(stdout_fd, False)
        os.set_blocking(stderr_fd, False)
        self.stdout_fd = stdout_fd
        self.stderr_fd = stderr_fd
        self.outbox = Outbox(_PipeWriter(stdin_fd))
        self._stdout = LineSplitter(limit_bytes=2**62)  # its results are as long as they are
        self._stderr = LineSplitter(_MAX_STDERR_LINE_BYTES)

    def read_stdout(self) -> tuple[list[bytes], bool]:
        """The protocol lines that came in, and whether there is no more to come."""
        return _read(self.stdout_fd, self._stdout)

    def read_stderr(self) -> tuple[list[bytes], bool]:
        """What it logged and printed, and whether there is no more to come."""
        lines, ended = _read(self.stderr_fd, self._stderr)
        self.last_words.extend(lines)
        return lines, ended

    @property
    def oom_kills(self) -> int:
        """OOM kills by the kernel since it was started."""
        return count_oom_kills() - self._oom_kills_before

    @property
    def is_alone(self) -> bool:
        """Whether it runs a job that is to run by itself, or is kept free for one."""
        return self.reserved_for is not None or any(job.is_suspect for job in self.jobs.values())

    def free_slots(self, lane: dict[str, Any]) -> int:
        """How many more jobs one of its lanes holds."""
        taken = sum(job.method in lane["methods"] for job in self.jobs.values())
        return int(lane["slots"]) - taken

    def send(self, line: bytes) -> None:
        """Queue one line without its newline; `flush` writes it."""
        self.outbox.put(line + b"\n")

    def flush(self) -> None:
        """Write what the pipe takes. A dead worker's death is told elsewhere."""
        try:
            self.outbox.flush()
        except OSError:
            self.outbox.clear()

    def stop(self) -> None:
        """Have it drain and leave by itself; killed where it takes too long for that."""
        if self.state in ("ready", "draining"):
            self.state = "stopping"
            self.expect_death(LEAVE_TIMEOUT_S)
            self.send(b'{"type":"shutdown"}')

    def ask_health(self) -> None:
        """Have it report; `health` is then new, and `health_asked_at` None again."""
        if self.state == "ready" and self.health_asked_at is None:
            self.health_asked_at = time.monotonic()
            self.send(b'{"type":"health"}')

    def ask_trim(self) -> None:
        """Have it give memory back; `trims_due` is 0 again once that is done."""
        if self.state == "ready":
            self.trims_due += 1
            self.send(b'{"type":"trim"}')

    def note_health(self, report: dict[str, Any]) -> None:
        """It has reported. Whichever answer came first: once both are there, both are done."""
        self.health = report
        if self.health_asked_at is not None:
            self.health_asked_at = None
        elif self.trims_due:
            self.trims_due -= 1

    @property
    def models_loaded(self) -> list[str]:
        """As it last reported."""
        return list(self.health["models_loaded"]) if self.health else []

    def end(self, cause: Cause, culprits: Collection[Job] = (), *, abort: bool = False) -> None:
        """Kill it and everything in its group; with `abort`, for its stacks first."""
        if self.end_cause is None:
            self.end_cause = cause
            self.culprits = culprits
        if abort and self.kill_at is None:
            self._signal(signal.SIGABRT)
        else:
            self.kill()
        # Again then, until it is dead: it may have had no pid yet.
        self.expect_death(ABORT_GRACE_S)

    def end_for_violation(self, detail: str) -> None:
        """Kill it, for it does not keep to the protocol: each of its jobs may be the reason."""
        cause = Cause("protocol_violation", detail=detail)
        self.end(cause, list(self.jobs.values()))

    def expect_death(self, within_s: float) -> None:
        """Have it killed, or killed again, where it is not dead by then."""
        self.kill_at = time.monotonic() + within_s

    def kill(self) -> None:
        """SIGKILL it and everything in its group."""
        self.was_killed = True
        self._signal(signal.SIGKILL)

    @property
    def is_dead_unreported(self) -> bool:
        """Whether its process is gone, or never came to be, though its parent says nothing."""
        if self.pid is None:
            return True
        import psutil  # here, for it costs a start 20 ms

        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return True

    @property
    def is_late(self) -> bool:
        """Whether it owes an answer for too long."""
        asked_at = self.health_asked_at
        return asked_at is not None and time.monotonic() - asked_at > ANSWER_TIMEOUT_S

    @property
    def is_unresponsive(self) -> bool:
        """Whether it is late with an answer, though its process lives."""
        return self.state == "ready" and self.is_late

    def _signal(self, signum: int) -> None:
        if self.pid is None or kill_group(self.pid, signum):
            return
        # Forked a moment ago, it does not lead a group yet. (Or it is gone: its number is not
        # given to another process as soon as that.)
        with contextlib.suppress(OSError):
            os.kill(self.pid, signum)

    def last_line(self) -> str | None:
        """What it said last on stderr, that is not a log line of ours."""
        for line in reversed(self.last_words):
            if not line.startswith(b"{"):
                return line.decode(errors="replace").strip()[:200]
        return None

    def stalled_job(self, now: float) -> Job | None:
        """A job that has been silent past its budget."""
        for lane in self.lanes.values():
            jobs = [job for job in self.jobs.values() if job.method in lane["methods"]]
            # Where all of a lane's jobs wait, for whom do they?
            for job in [job for job in jobs if not job.waiting] or jobs:
                if now > job.heard_at + job.budget_s:
                    return job
        return None

    def take_back(self, job: Job) -> None:
        """Forget a job. Those that waited for it have a turn to come: their clocks start anew."""
        del self.jobs[job.job_id]
        now = time.monotonic()
        for other in self.jobs.values():
            if other.waiting:
                other.heard_at = now

    def forgive(self, seconds: float) -> None:
        """Count its time of silence less: for so long nobody listened."""
        self.spawned_at += seconds
        if self.kill_at is not None:
            self.kill_at += seconds
        if self.health_asked_at is not None:
            self.health_asked_at += seconds
        for job in self.jobs.values():
            job.heard_at += seconds
            job.ends_at += seconds

    def close(self) -> None:
        """Give the descriptors back."""
        self.state = "dead"
        for fd in (self.outbox.fd, self.stdout_fd, self.stderr_fd):
            os.close(fd)


def open_pipes() -> tuple[list[int], list[int]]:
    """A worker's stdin, stdout and stderr, and our ends of them. Raises `OSError`: too many."""
    fds: list[int] = []
    try:
        for _ in range(3):
            fds += os.pipe()
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    stdin, to_child, from_child, stdout, log, stderr = fds
    return [stdin, stdout, stderr], [to_child, from_child, log]


class _PipeWriter:
    """The write end of a pipe that is ours alone, so that O_NONBLOCK harms nobody."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)

    def write(self, data: bytes | memoryview) -> int:
        try:
            return os.write(self.fd, data)
        except BlockingIOError:
            return 0


def _read(fd: int, lines: LineSplitter) -> tuple[list[bytes], bool]:
    """All that is there now: what a pipe holds is little, and a dead worker's comes whole."""
    found: list[bytes] = []
    while True:
        try:
            chunk = os.read(fd, READ_SIZE_BYTES)
        except BlockingIOError:
            return found, False
        found += [line for line in lines.feed(chunk) if line is not None]
        if not chunk:
            return found, True
        if len(chunk) < READ_SIZE_BYTES:
            return found, False
