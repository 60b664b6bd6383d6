"""A daemon of one's own, as a child process, for a Python host that blocks.

with Client() as client:
    client.submit("esrgan", {"image_path": "photo.jpg"})
    for message in client.events():
        print(message)
"""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from upscaled_cli.channel import Message, RefusedError, line_of
from upscaled_cli.daemon import Daemon
from upscaled_cli.mailboxes import Mailbox, Mailboxes
from upscaled_protocol.envelope import MAX_JOB_ID_LENGTH
from upscaled_protocol.errors import ErrorCode

# Supervised: a crash costs the running job an attempt, not the whole run. -P: the working folder
# may be anybody's, and nothing is to be imported from it.
DAEMON = (sys.executable, "-P", "-m", "upscaled_cli", "run")

# From the end of our input to the daemon's own end, when it has no jobs left.
CLOSE_TIMEOUT_S = 30.0

# A daemon that fails before it is ready may have met its predecessor, which was still leaving.
MAX_STARTS = 2

_ENDS = ("result", "error")


class DaemonGoneError(Exception):
    """Raised when the daemon ends while jobs are in flight. The text has its last words."""


class ForkedError(RuntimeError):
    """Raised when a client is used in a process that was forked from its own."""


class Client:
    """Starts the daemon at once; leaving the context ends it, with every process it started.

    Any thread may call it, and greenlets of gevent and eventlet: each receives what its own jobs
    send. A thread without jobs in flight receives for those threads that do not receive.

    A daemon that ends before it is ready, and has accepted no job, is started again: it gets the
    jobs of the first. `max_starts` is how often one is started in all.

    After a fork the client is the parent's alone: in the child every call raises `ForkedError`.
    """

    def __init__(
        self,
        command: Sequence[str] = DAEMON,
        *,
        show_log: bool = False,
        close_timeout_s: float = CLOSE_TIMEOUT_S,
        max_starts: int = MAX_STARTS,
    ) -> None:
        self._pid = os.getpid()
        self._command = command
        self._show_log = show_log
        self._close_timeout_s = close_timeout_s
        self._starts_left = max_starts
        self._mailboxes = Mailboxes()
        self._count = 0
        # Health and trim that have no answer yet: request_id, who asked, and the line.
        self._asked: list[tuple[Any, weakref.ref[Mailbox], bytes]] = []
        self._is_finished = False  # nothing more is to be sent
        self._is_closing = False
        with self._mailboxes.lock:  # it may end before we know it
            self._process = self._start()
        _clients.add(self)

    def submit(
        self, method: str, config: dict[str, Any], *, job_id: str | None = None, **fields: Any
    ) -> str:
        """Send one job; the id that its messages will carry.

        `fields` are those of the job beside its config, as in `priority` and `timeout_s`. Raises
        `RefusedError`, a `ValueError`, if the job cannot be sent. A daemon that is gone says so
        to `receive`, after all else that it had to say.
        """
        self._check_process()
        _check(method, config, job_id, fields)
        # A Ctrl-C is most likely to come here, where nothing is registered yet. From then on a job
        # counts as sent, because the daemon may have it: a cancel must reach it.
        self._process.channel.wait_for_room()
        with self._mailboxes.lock:
            if job_id is None:
                job_id = self._next_id()
            line = line_of({"job_id": job_id, "method": method, "config": config, **fields})
            if job_id in self._mailboxes.jobs:
                raise RefusedError(ErrorCode.DUPLICATE_JOB, f"job {job_id!r} is still in flight")
            self._check_open()
            channel = self._process.channel  # the next one is sent all jobs that there are
            # Before it is sent: its answer may come at once.
            self._mailboxes.register(job_id, line)
        channel.send(line)
        return job_id

    def cancel(self, job_id: str | None = None) -> None:
        """End a job, or every job in flight; each is still answered."""
        self._check_process()
        with self._mailboxes.lock:
            wanted = sorted(self._mailboxes.jobs) if job_id is None else [job_id]
            for one in wanted:
                if one in self._mailboxes.jobs:
                    self._mailboxes.jobs[one].is_cancelled = True
        for one in wanted:
            self.send(_cancel(one))

    def send(self, message: Message) -> None:
        """Send any message that is no job. Raises `RefusedError`, a `ValueError`."""
        self._check_process()
        line = line_of(message)
        with self._mailboxes.lock:
            self._check_open()
            channel = self._process.channel
            if message.get("type") in ("health", "trim"):
                own = weakref.ref(self._mailboxes.own())
                self._asked.append((message.get("request_id"), own, line))
        channel.send(line)

    def receive(self, timeout_s: float | None = None) -> Message:
        """The next message for this thread, whatever it is about.

        A job ends once: what else may come of an end is passed over. Raises `DaemonGoneError`, and
        `TimeoutError` if nothing comes for so long.
        """
        self._check_process()
        message = self._mailboxes.take(timeout_s, lambda: False)
        if message is None:
            raise self._gone()
        return message

    def finish(self) -> None:
        """Send nothing more: the daemon finishes what it has, and ends."""
        self._check_process()
        with self._mailboxes.lock:
            self._is_finished = True
        self._process.channel.close()

    def events(self, timeout_s: float | None = None) -> Iterator[Message]:
        """Every message for this thread, as it comes, until each of its jobs has its result or its
        error. In a thread without jobs in flight: until every thread's jobs have.

        Raises `DaemonGoneError`; `TimeoutError` if nothing comes for so long; and `RuntimeError` if
        a thread that receives for all has taken the end of a job of this one.
        """
        self._check_process()
        own = self._mailboxes.own()
        if own.robbed_by is not None:
            thread, own.robbed_by = own.robbed_by, None
            raise RuntimeError(
                f"{thread} has received the end of a job that this thread has submitted; "
                "receive either in each thread that submits, or in one thread for all"
            )
        has_own = own.in_flight > 0

        def is_done() -> bool:
            return not (own.in_flight if has_own else self._mailboxes.jobs)

        while not is_done():
            message = self._mailboxes.take(timeout_s, is_done)
            if message is not None:
                yield message
            elif not is_done():
                raise self._gone()

    @property
    def pending(self) -> frozenset[str]:
        """Ids of the jobs in flight."""
        with self._mailboxes.lock:
            return frozenset(self._mailboxes.jobs)

    @property
    def returncode(self) -> int | None:
        """The daemon's exit status; None while it runs."""
        return self._process.returncode

    def kill(self) -> None:
        """End the daemon now. Its workers follow it: their pipes close."""
        self._check_process()
        with self._mailboxes.lock:
            self._is_finished = self._is_closing = True
        self._process.kill()

    # --- the daemon -------------------------------------------------------------------------

    def _start(self) -> Daemon:
        self._starts_left -= 1
        return Daemon(self._command, show_log=self._show_log, take=self._take, end=self._end)

    def _take(self, message: Message) -> None:
        """In the reader's thread: a message of the daemon."""
        kind, job_id = message.get("type"), message.get("job_id")
        with self._mailboxes.lock:
            if kind == "status" and message.get("message") == "ready":
                self._starts_left = 0
            if kind == "health":
                self._mailboxes.put(message, self._asker(message.get("request_id")), None)
                return
            job = self._mailboxes.jobs.get(job_id) if isinstance(job_id, str) else None
            if kind in _ENDS and job_id is not None:
                if job is None or job.has_ended:
                    return
                job.has_ended = True
            if job is not None:
                job.is_accepted = True
                job.line = b""
                self._starts_left = 0
            self._mailboxes.put(message, job.owner if job else None, job)

    def _asker(self, request_id: Any) -> weakref.ref[Mailbox] | None:
        for row in self._asked:
            if row[0] == request_id:
                self._asked.remove(row)
                return row[1]
        return None

    def _end(self) -> None:
        """In the reader's thread: the daemon's stdout has ended, or cannot be read any more."""
        with self._mailboxes.lock:
            if self._process.channel.fault is not None:
                self._process.kill()
            if self._starts_left > 0 and not self._is_closing:
                failed = self._process
                failed.kill()
                try:
                    self._process = self._start()
                except OSError:
                    pass  # the first one's last words say more
                else:
                    self._send_again()
                    return
            self._mailboxes.end()

    def _send_again(self) -> None:
        """Give the next daemon what the first had not accepted."""
        lines = [line for _, _, line in self._asked]
        for job_id, job in self._mailboxes.jobs.items():
            lines.append(job.line)
            if job.is_cancelled:
                lines.append(line_of(_cancel(job_id)))
        self._process.channel.send(*lines)
        if self._is_finished:
            self._process.channel.close()

    def _gone(self) -> DaemonGoneError:
        self._process.kill()
        fault = self._process.channel.fault
        words = fault or f"the daemon ended with status {self._process.returncode}"
        if not self._show_log:
            words += f": {self._process.last_words()}"
        return DaemonGoneError(words)

    # --- what is refused --------------------------------------------------------------------

    def _next_id(self) -> str:
        while True:
            self._count += 1
            if str(self._count) not in self._mailboxes.jobs:
                return str(self._count)

    def _check_open(self) -> None:
        if self._is_finished:
            raise RefusedError(
                ErrorCode.SHUTTING_DOWN, "the client is closed: nothing more can be sent"
            )

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(
                f"this client belongs to process {self._pid}, from which this one was forked; "
                "make a Client in each process, after the fork"
            )

    def _leave_to_parent(self) -> None:
        self._process.abandon()

    def __enter__(self) -> Self:
        self._check_process()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if os.getpid() != self._pid:
            return  # the parent's daemon goes on
        with self._mailboxes.lock:
            self._is_finished = self._is_closing = True
        self._process.channel.close()
        # With jobs in flight somebody gave up on them.
        if not self._process.wait(0 if self.pending else self._close_timeout_s):
            self._process.kill()
        self._process.join()


def _check(method: Any, config: Any, job_id: Any, fields: dict[str, Any]) -> None:
    """Raise `RefusedError` if a daemon could not tell which job its refusal is about."""
    wrong = None
    if job_id is not None and not isinstance(job_id, str):
        wrong = f"a job_id is a string, not {type(job_id).__name__}"
    elif job_id is not None and not 1 <= len(job_id) <= MAX_JOB_ID_LENGTH:
        wrong = f"a job_id has 1 to {MAX_JOB_ID_LENGTH} characters, not {len(job_id)}"
    elif job_id is not None and any("\ud800" <= letter <= "\udfff" for letter in job_id):
        wrong = "a job_id is text, and this one has half a surrogate pair or bytes of a file name"
    elif not isinstance(method, str):
        wrong = f"a method is a string, not {type(method).__name__}"
    elif not isinstance(config, dict):
        wrong = f"a config is a dict, not {type(config).__name__}"
    elif fields.get("type", "job") != "job":
        wrong = "a message that is no job goes to `send`"
    if wrong is not None:
        raise RefusedError(ErrorCode.INVALID_JOB, wrong)


def _cancel(job_id: str) -> Message:
    return {"type": "cancel", "job_id": job_id}


def _leave_daemons_to_parent() -> None:
    for client in list(_clients):
        client._leave_to_parent()
    _clients.clear()


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
os.register_at_fork(after_in_child=_leave_daemons_to_parent)
