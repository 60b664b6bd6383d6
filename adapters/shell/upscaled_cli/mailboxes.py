"""Messages sorted by thread: each thread receives what its own jobs send.

    reader thread ── put ──> a mailbox per thread that has jobs in flight and receives
                        └──> the common mailbox, for all other threads

So several threads can each submit jobs and wait for them; and one thread can receive for others
that only submit. What is about no job goes to the first thread that receives for itself, else to
the common mailbox.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from upscaled_cli.channel import Message

# A thread may end and leave messages unread, which are anybody's then. No one is told of that.
_RECHECK_S = 1.0


@dataclass(eq=False)
class Job:
    """A job that was submitted, and whose end has not been received yet."""

    owner: weakref.ref[Mailbox]
    line: bytes
    is_accepted: bool = False
    has_ended: bool = False
    is_cancelled: bool = False


class Letter(NamedTuple):
    """A message, the mailbox that it is for, and the job that it is about."""

    message: Message
    owner: weakref.ref[Mailbox] | None = None
    job: Job | None = None


@dataclass(eq=False)
class Mailbox:
    """What one thread is to receive. `arrived` has the lock of all."""

    thread_name: str
    arrived: threading.Condition
    letters: deque[Letter] = field(default_factory=deque)
    in_flight: int = 0  # its jobs whose end has not been received
    is_open: bool = False
    robbed_by: str | None = None  # the thread that received the end of one of its jobs


class Mailboxes:
    """Every thread's mailbox, and the jobs in flight. Hold `lock` for all but `take`."""

    def __init__(self) -> None:
        # Reentrant: a signal handler may end the client in the middle of anything.
        self.lock = threading.RLock()
        self.jobs: dict[str, Job] = {}
        self.has_ended = False
        self._local = threading.local()
        self._common = Mailbox("", threading.Condition(self.lock))
        # Weak, because a thread may end; its messages are kept all the same.
        self._open: list[tuple[weakref.ref[Mailbox], deque[Letter]]] = []

    def own(self) -> Mailbox:
        """The mailbox of the thread that calls."""
        mailbox: Mailbox | None = getattr(self._local, "mailbox", None)
        if mailbox is None:
            name = threading.current_thread().name
            mailbox = self._local.mailbox = Mailbox(name, threading.Condition(self.lock))
        return mailbox

    def register(self, job_id: str, line: bytes) -> None:
        """Note a job of the calling thread."""
        mailbox = self.own()
        if not mailbox.in_flight:
            mailbox.robbed_by = None
        self.jobs[job_id] = Job(weakref.ref(mailbox), line)
        mailbox.in_flight += 1

    def put(self, message: Message, owner: weakref.ref[Mailbox] | None, job: Job | None) -> None:
        """Give a message to the thread that is to have it."""
        mailbox = self._common
        if owner is None and self._open:
            mailbox = self._open[0][0]() or mailbox
        elif owner is not None and (own := owner()) is not None and own.is_open:
            mailbox = own
        mailbox.letters.append(Letter(message, owner, job))
        mailbox.arrived.notify()

    def end(self) -> None:
        """No more messages will come."""
        self.has_ended = True
        self._wake_all()

    def take(self, timeout_s: float | None, is_done: Callable[[], bool]) -> Message | None:
        """The calling thread's next message; None once it is done, or no more will come.

        Raises `TimeoutError`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        own = self.own()
        with self.lock:
            while True:
                if is_done():
                    return None
                self._collect_unread()
                if own.in_flight and not own.is_open:
                    self._open_mailbox(own)
                mailbox = own if own.is_open else self._common
                if mailbox.letters:
                    return self._deliver(mailbox.letters.popleft(), own)
                if self.has_ended:
                    return None
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    raise TimeoutError(f"the daemon said nothing for {timeout_s:g} s")
                mailbox.arrived.wait(_RECHECK_S if left_s is None else min(left_s, _RECHECK_S))

    def _deliver(self, letter: Letter, receiver: Mailbox) -> Message:
        message, _, job = letter
        if job is None or message.get("type") not in ("result", "error"):
            return message
        del self.jobs[message["job_id"]]
        owner = job.owner()
        if owner is not None:
            owner.in_flight -= 1
            if owner is not receiver:
                owner.robbed_by = receiver.thread_name
            if not owner.in_flight and owner.is_open:
                self._close_mailbox(owner)
        if not self.jobs:
            self._wake_all()  # some wait for just that
        return message

    def _open_mailbox(self, own: Mailbox) -> None:
        """From now on its thread receives for itself; what came before is in the common one."""
        is_first = not self._open
        own.is_open = True
        self._open.append((weakref.ref(own), own.letters))
        letters = list(self._common.letters)
        self._common.letters.clear()
        for letter in letters:
            mine = is_first if letter.owner is None else letter.owner() is own
            (own if mine else self._common).letters.append(letter)

    def _close_mailbox(self, own: Mailbox) -> None:
        """Its thread waits for nothing any more; it may not receive again for long."""
        own.is_open = False
        self._open = [pair for pair in self._open if pair[0]() is not own]
        self._hand_on(own.letters)

    def _collect_unread(self) -> None:
        """Take what threads that have ended left unread."""
        for owner, letters in self._open[:]:
            if owner() is None:
                self._open.remove((owner, letters))
                self._hand_on(letters)

    def _hand_on(self, letters: deque[Letter]) -> None:
        heir = self._open[0][0]() if self._open else None
        for letter in letters:
            target = heir if heir is not None and letter.owner is None else self._common
            target.letters.append(letter)
            target.arrived.notify()
        letters.clear()

    def _wake_all(self) -> None:
        for mailbox in (self._common, *(owner() for owner, _ in self._open)):
            if mailbox is not None:
                mailbox.arrived.notify_all()
