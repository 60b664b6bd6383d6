"""The daemon as a child of the server: `upscaled run`, started again if it exits.

    Service ── send ──> Daemon (pipes and threads of the Python adapter) ──> upscaled run
    Service <── handle_message ── event loop <── LoopChannel <─────────────┘

Every call comes from the event loop, and every call of the listener is made there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol

from upscaled.daemon import Daemon
from upscaled.errors import DaemonGoneError
from upscaled.messages import Message
from upscaled.questions import Questions
from upscaled.restarts import USAGE_STATUS
from upscaled.timers import Timers
from upscaled_http.loopchannel import LoopChannel
from upscaled_protocol.backoff import pauses

State = Literal["starting", "ready", "restarting", "stopped"]

# From one daemon's end to the next one's start. Doubled with each daemon that ends early.
_RESTART_S = 0.1
_MAX_RESTART_S = 5.0
# A daemon that ran for this time did not fail at its start.
_RAN_S = 10.0
# Without a daemon for this time, health says `failed`.
_FAILED_AFTER_S = 30.0
# A daemon that was asked to stop is killed at this time past its own grace.
_KILL_AFTER_GRACE_S = 5.0

_LOG = logging.getLogger(__name__)


class DaemonListener(Protocol):
    """What the daemon's messages and its end are reported to."""

    async def prepare_start(self) -> bool:
        """Called while no daemon runs, before the next one is started. False: not yet."""

    def handle_start(self) -> None:
        """A daemon was started: `send` reaches it."""

    def handle_message(self, message: Message) -> None:
        """A message of the daemon."""

    def handle_end(self) -> None:
        """The daemon has ended, and all of its messages were handled."""


class ChildDaemon:
    """Keeps one daemon running, until it is stopped."""

    def __init__(
        self, command: Sequence[str], listener: DaemonListener, env: Mapping[str, str]
    ) -> None:
        self._command = command
        self._listener = listener
        self._env = env
        self._timers = Timers()
        self._questions = Questions(self._timers)
        self._daemon: Daemon | None = None
        self._gone: asyncio.Future[DaemonGoneError] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_stopping = False
        self._failing_since: float | None = None
        self.state: State = "starting"
        self.restarts = 0
        self.worker_restarts: Counter[str] = Counter()  # by the cause's `reason`
        # Why no daemon can run with these settings; None if one may.
        self.fault: str | None = None
        self.ready: Message = {}

    @property
    def pid(self) -> int | None:
        """The daemon's process; None while there is none."""
        return None if self._daemon is None else self._daemon.pid

    @property
    def has_failed(self) -> bool:
        """True if no daemon could be kept running for 30 s."""
        since = self._failing_since
        return since is not None and time.monotonic() - since > _FAILED_AFTER_S

    def start(self) -> None:
        """Keep a daemon running from now on."""
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._keep_running())

    def send(self, line: bytes) -> None:
        """Send one line. It is lost if there is no daemon; `handle_start` then sends it again."""
        if self._daemon is not None:
            self._daemon.channel.send(line)

    async def ask_health(self, timeout_s: float) -> Message | None:
        """The daemon's report; None if it does not answer in time."""
        daemon = self._daemon
        if daemon is None:
            return None
        answer = self._questions.ask("health", timeout_s)
        self._write_questions()
        try:
            return await asyncio.wrap_future(answer)
        except Exception:  # noqa: BLE001 - it exited, or is stuck
            return None

    def reload(self) -> None:
        """Let the daemon replace its workers one by one, which loses no job."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGHUP)

    async def stop(self, grace_s: float) -> None:
        """Let the daemon finish what it can within its own grace, and end it. Its journal keeps
        the other jobs."""
        self._is_stopping = True
        if self._daemon is not None:
            self._daemon.terminate(grace_s + _KILL_AFTER_GRACE_S)
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self.state = "stopped"

    # --- the loop's side ----------------------------------------------------------------------

    async def _keep_running(self) -> None:
        pauses_s = pauses(_RESTART_S, _MAX_RESTART_S)
        while not self._is_stopping:
            if not await self._listener.prepare_start():
                self._failing_since = self._failing_since or time.monotonic()
                await asyncio.sleep(next(pauses_s))
                continue
            began = time.monotonic()
            error = await self._run_once()
            if self._is_stopping:
                return
            self.state = "restarting"
            self.restarts += 1
            _LOG.warning("%s", error)
            if error.status == USAGE_STATUS and not self.ready:
                self.fault = (
                    "`upscaled run` refuses its options, as its message on stderr says: mend the "
                    "settings of workers, workers.args above all"
                )
                return
            if time.monotonic() - began > _RAN_S:
                pauses_s = pauses(_RESTART_S, _MAX_RESTART_S)
                self._failing_since = None
            self._failing_since = self._failing_since or time.monotonic()
            await asyncio.sleep(next(pauses_s))

    async def _run_once(self) -> DaemonGoneError:
        """Run a daemon to its end."""
        self._gone = self._loop.create_future()
        try:
            daemon = Daemon(
                self._command,
                self,
                self._timers,
                env=self._env,
                show_log=True,
                make_channel=LoopChannel,
            )
        except OSError as error:
            return DaemonGoneError(f"the daemon cannot be started: {error.strerror}")
        self._daemon = daemon
        daemon.start()
        self._listener.handle_start()
        return await self._gone

    def _write_questions(self) -> None:
        if self._daemon is not None:
            self._questions.write(self._daemon.channel)

    def _deliver(self, message: Message) -> None:
        try:
            self._handle_message(message)
        except Exception:  # noqa: BLE001 - whatever it is
            # If a message cannot be handled, the ends behind it must be.
            _LOG.exception("a message of the daemon was not handled")

    def _handle_message(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "health":
            self._questions.answer(message)
            return
        if kind == "status" and message.get("message") == "ready":
            self.state = "ready"
            self.ready = message
            self._failing_since = None
        elif kind == "status" and message.get("message") == "worker_restarted":
            self.worker_restarts[(message.get("cause") or {}).get("reason", "exit")] += 1
        self._listener.handle_message(message)

    def _handle_gone(self, error: DaemonGoneError) -> None:
        self._daemon = None
        self._questions.fail_all(error)
        self._listener.handle_end()
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(error)

    # --- the daemon's listener: messages in the event loop, the rest in any thread ----------------

    def on_message(self, message: Message) -> None:
        """Called in the event loop, which reads the daemon."""
        self._deliver(message)

    def on_room(self) -> None:
        """Write the questions that found no room; the channel itself queues all other lines."""
        self._call(self._write_questions)

    def on_input_lost(self) -> None:
        """The daemon reads no more: kill it, so that the next one is started."""
        daemon = self._daemon
        if daemon is not None:
            daemon.kill()

    def on_gone(self, error: DaemonGoneError) -> None:
        """Report the end in the event loop, which has read all messages."""
        self._call(lambda: self._handle_gone(error))

    def _call(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)
