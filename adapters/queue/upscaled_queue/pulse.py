"""The machine's pulse: every quarter of a lease it renews what runs, tells the record that it is
alive, and looks whether it should leave.

Cancels come by publish and subscribe at once, and with the pulse if that was missed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

import redis

from upscaled_queue.machine import Machine
from upscaled_queue.record import CANCEL_CHANNEL, connect

# So that people see a job advance; Redis gets no more than that from each machine.
_PROGRESS_S = 0.25
# Leases without a delivery while jobs wait, slots are free, and the queue can be reached. After an
# outage the worker gets this time to connect again.
_STUCK_LEASES = 2
# A cancel's way takes no longer than this when Redis comes back.
_RESUBSCRIBE_S = 1.0
_BEATS_A_LEASE = 4
# An idle machine asks so often whether a job waits.
_IDLE_LOOK_S = 0.5


class Engine(Protocol):
    """What the pulse needs of an engine."""

    def renew(self, leases: list[str]) -> None:
        """Hold these deliveries for another lease. Raises any error of an outage."""

    def waiting(self) -> int:
        """Jobs that wait in this machine's queues, and could be delivered now. Raises any error of
        an outage."""


class Pulse:
    """Threads that end with the process. leave: called once, when the machine has been idle for
    `idle_exit_s`. stuck: called once, if nothing is delivered any more."""

    def __init__(
        self,
        machine: Machine,
        engine: Engine,
        capacity: int,
        leave: Callable[[], None],
        stuck: Callable[[], None],
    ) -> None:
        self._machine = machine
        self._engine = engine
        self._capacity = capacity
        self._leave = leave
        self._stuck = stuck
        # Since when each look found that jobs wait, and none was delivered; None if one did not.
        self._starved_since: float | None = None
        self._has_spoken = False

    def start(self) -> None:
        """From now on."""
        for target in (self._beat, self._tell_progress, self._hear_cancels):
            threading.Thread(target=target, name="upscaled-pulse", daemon=True).start()
        if self._machine.settings.idle_exit_s is not None:
            threading.Thread(target=self._watch_idleness, daemon=True).start()

    def _beat(self) -> None:
        machine, settings = self._machine, self._machine.settings
        redis_client = machine.records
        while not machine.given_up.wait(0):
            runs = machine.running()
            try:
                self._engine.renew([run.lease for run in runs if run.lease is not None])
                ids = [run.job.job_id for run in runs]
                for job_id in redis_client.touch(
                    settings.machine, settings.methods, ids, settings.lease_s
                ):
                    machine.cancel(job_id)
                self._check_deliveries()
            except Exception as error:  # noqa: BLE001 - an engine's outage has any class
                self._starved_since = None
                machine.log.log("warning", "pulse_failed", detail=str(error))
            if machine.given_up.wait(settings.lease_s / _BEATS_A_LEASE):
                return

    def _check_deliveries(self) -> None:
        machine = self._machine
        has_room = len(machine.runs) < self._capacity and not machine.is_stopping
        waiting = self._engine.waiting() if has_room else 0
        if not waiting:
            self._starved_since = None
            return
        now = time.monotonic()
        self._starved_since = max(self._starved_since or now, machine.last_delivery)
        starved_s = now - self._starved_since
        if starved_s >= _STUCK_LEASES * machine.settings.lease_s and not self._has_spoken:
            self._has_spoken = True
            machine.log.log("error", "nothing_is_delivered", waiting=waiting, silence_s=starved_s)
            self._stuck()

    def _watch_idleness(self) -> None:
        machine, limit_s = self._machine, self._machine.settings.idle_exit_s or 0.0
        while not machine.is_stopping:
            left_s = machine.last_delivery + limit_s - time.monotonic()
            if left_s <= 0 and not machine.runs and self._has_no_work():
                machine.log.log("info", "idle", idle_s=limit_s)
                self._leave()
                return
            machine.given_up.wait(max(left_s, _IDLE_LOOK_S))

    def _has_no_work(self) -> bool:
        """Whether nothing waits either, as it does while the worker still connects."""
        try:
            return self._engine.waiting() == 0
        except Exception:  # noqa: BLE001 - an engine's outage has any class
            return False

    def _tell_progress(self) -> None:
        machine = self._machine
        while not machine.given_up.wait(_PROGRESS_S):
            news, machine.news = machine.news, {}
            if news:
                try:
                    machine.records.tell_progress(news)
                except redis.RedisError:
                    continue  # progress is best effort: the next news, or the end, will tell

    def _hear_cancels(self) -> None:
        machine = self._machine
        while not machine.given_up.is_set():
            try:
                with connect(machine.settings.url.record).pubsub() as heard:  # type: ignore[no-untyped-call]
                    heard.subscribe(CANCEL_CHANNEL)
                    while not machine.given_up.is_set():
                        message = heard.get_message(timeout=_RESUBSCRIBE_S)
                        if message is not None and message["type"] == "message":
                            machine.cancel(message["data"])
            except (redis.RedisError, OSError):
                machine.given_up.wait(_RESUBSCRIBE_S)
