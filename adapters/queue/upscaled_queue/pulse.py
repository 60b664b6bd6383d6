"""The machine's pulse: every quarter of a lease it renews the leases of what runs, writes a sign of
life to the record, and checks whether the machine should leave.

A cancel comes at once by publish and subscribe; the pulse finds a cancel that was missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import redis

from upscaled_queue.machine import Machine
from upscaled_queue.outages import reason_of
from upscaled_queue.record import CANCEL_CHANNEL, connect
from upscaled_queue.seldom import Seldom

# Between two writes of the jobs' progress. Redis gets no more than that from each machine.
_PROGRESS_S = 0.25
# Leases without a delivery while jobs wait, slots are free, and the queue can be reached. After an
# outage the worker gets this time to connect again.
_STUCK_LEASES = 2
# How long a cancel waits at most after Redis can be reached again.
_RESUBSCRIBE_S = 1.0
_BEATS_PER_LEASE = 4
# How often an idle machine checks whether a job waits.
_IDLE_LOOK_S = 0.5


class Engine(Protocol):
    """What the pulse needs of an engine."""

    def renew(self, leases: list[str]) -> None:
        """Hold these deliveries for another lease. Raises any error of an outage."""

    def waiting(self, *, is_soon: bool) -> int:
        """Jobs that wait in this machine's queues, and could be delivered now, or if `is_soon`
        within a minute. Raises any error of an outage."""


class Pulse:
    """Threads that end with the process."""

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        capacity: int,
        leave: Callable[[], None],
    ) -> None:
        """capacity: jobs that run at once; with fewer of them the machine has room.
        leave: called once, when the machine has been idle for `idle_exit_s`.
        """
        self._machine = machine
        self._engine = engine
        self._capacity = capacity
        self._leave = leave
        # Since when jobs wait and none is delivered; None if the last check found no such job.
        self._starved_since: float | None = None

    def start(self) -> None:
        """Start the threads."""
        for target in (self._beat, self._write_progress, self._follow_cancels):
            threading.Thread(target=target, name="upscaled-pulse", daemon=True).start()
        if self._machine.settings.idle_exit_s is not None:
            threading.Thread(target=self._watch_idleness, daemon=True).start()

    def _beat(self) -> None:
        machine, settings, seldom = self._machine, self._machine.settings, Seldom()
        while not machine.given_up.wait(0):
            runs = machine.running()
            try:
                self._engine.renew([run.lease for run in runs if run.lease is not None])
                ids = [run.job.job_id for run in runs]
                cancelled = machine.records.touch(
                    settings.machine, settings.methods, ids, settings.lease_s
                )
                for job_id in cancelled:
                    machine.cancel(job_id)
                self._check_deliveries()
            except Exception as error:  # noqa: BLE001 - an engine's outage has any class
                self._starved_since = None
                if seldom.is_due(reason := reason_of(error)):
                    machine.log.log("warning", "pulse_failed", detail=reason)
            if machine.given_up.wait(settings.lease_s / _BEATS_PER_LEASE):
                return

    def _check_deliveries(self) -> None:
        machine = self._machine
        has_room = len(machine.runs) < self._capacity and not machine.is_stopping
        waiting = self._engine.waiting(is_soon=False) if has_room else 0
        if not waiting:
            self._starved_since = None
            return
        now = time.monotonic()
        self._starved_since = max(self._starved_since or now, machine.last_delivery)
        starved_s = now - self._starved_since
        if starved_s >= _STUCK_LEASES * machine.settings.lease_s:
            machine.log.log("error", "nothing_is_delivered", waiting=waiting, silence_s=starved_s)
            machine.exit_stuck()

    def _watch_idleness(self) -> None:
        machine, limit_s = self._machine, self._machine.settings.idle_exit_s or 0.0
        while not machine.is_stopping:
            left_s = machine.last_delivery + limit_s - time.monotonic()
            if left_s <= 0 and self._is_idle(limit_s):
                machine.log.log("info", "idle", idle_s=limit_s)
                self._leave()
                return
            machine.given_up.wait(max(left_s, _IDLE_LOOK_S))

    def _is_idle(self, limit_s: float) -> bool:
        # In this order: a job that waits no more may run by now, and one that runs no more has set
        # the time.
        return (
            self._has_no_work()
            and not self._machine.runs
            and time.monotonic() - self._machine.last_delivery >= limit_s
        )

    def _has_no_work(self) -> bool:
        """True if no job waits, as one does while the engine's worker still connects, or before its
        next try."""
        try:
            return self._engine.waiting(is_soon=True) == 0
        except Exception:  # noqa: BLE001 - an engine's outage has any class
            return False

    def _write_progress(self) -> None:
        machine = self._machine
        while not machine.given_up.wait(_PROGRESS_S):
            news, machine.news = machine.news, {}
            if news:
                try:
                    machine.records.write_progress(news)
                except redis.RedisError:
                    continue  # best effort: newer progress, or the job's end, replaces it

    def _follow_cancels(self) -> None:
        machine = self._machine
        while not machine.given_up.is_set():
            try:
                with connect(machine.settings.url.record).pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(CANCEL_CHANNEL)
                    while not machine.given_up.is_set():
                        message = channel.get_message(timeout=_RESUBSCRIBE_S)
                        if message is not None and message["type"] == "message":
                            machine.cancel(message["data"])
            except (redis.RedisError, OSError):
                machine.given_up.wait(_RESUBSCRIBE_S)
