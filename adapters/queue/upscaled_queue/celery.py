"""Celery, on Redis or RabbitMQ: the app, its two tasks, and its machines.

celery -A upscaled_queue.celery worker -Q esrgan      # takes its settings from UPSCALED_QUEUE_*
from upscaled_queue.celery import upscale; upscale.delay(job)
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import uuid
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject

from upscaled_protocol.log import Logger
from upscaled_queue import scripts
from upscaled_queue.celeryproducer import PIPELINE_TASK, UPSCALE_TASK, routed, sent
from upscaled_queue.celeryresults import ResultBackend
from upscaled_queue.celerysettings import celery_settings
from upscaled_queue.depth import count_waiting
from upscaled_queue.ends import Ended
from upscaled_queue.exits import EXIT_OK, EXIT_STUCK
from upscaled_queue.job import PIPELINE, Message
from upscaled_queue.outages import reason_of
from upscaled_queue.record import RecordLostError, connect
from upscaled_queue.settings import URGENT, Settings, settings_from
from upscaled_queue.webhooks import read_webhook_settings

if TYPE_CHECKING:  # a backend that gives jobs has no machine
    from upscaled_queue.machine import Machine

# A message that is given back is delivered again at once if nothing else waits, so the task sleeps
# for a part of the delay.
_LONGEST_PAUSE_S = 1.0
_UNACKED_INDEX = "unacked_index"


class UpscaleFailedError(Exception):
    """Raised by `result.get()` for a job that ended with an error. event: the protocol's."""

    def __init__(self, event: Message) -> None:
        super().__init__(event)
        self.event = event
        self.code = event.get("code")

    def __str__(self) -> str:
        return f"{self.code}: {self.event.get('error')}"


class UpscaleTask(Task):  # type: ignore[misc]
    """Puts a job into its method's queue, by its priority, under its own id."""

    def apply_async(
        self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any
    ) -> Any:
        """As in Celery's `Task`. A job without an id gets the task's."""
        given = (args or [kwargs["job"]])[0]
        if not isinstance(given, Mapping):
            raise TypeError(f"a job is a dict, not a value of type {type(given).__name__}")
        job = dict(given)
        if self.name == pipeline.name:
            job.setdefault("method", PIPELINE)
        task_id = task_id or str(job.get("job_id") or uuid.uuid4())
        job.setdefault("job_id", task_id)
        options = routed(_settings, job, options)
        send = partial(super().apply_async, (job,), {}, task_id=task_id, **options)
        is_delayed = bool(options.get("countdown") or options.get("eta"))
        return sent(self.app, send, options["queue"], is_delayed=is_delayed)


app = Celery("upscaled", set_as_current=False)
_settings: Settings
_machine: Machine | None = None


def configure(settings: Settings) -> None:
    """Take these settings, before the app is used."""
    global _settings  # noqa: PLW0603 - an app is a process's own
    _settings = settings
    app.conf.update(celery_settings(settings))


@app.task(
    name=UPSCALE_TASK,
    base=UpscaleTask,
    bind=True,
    throws=(UpscaleFailedError,),
    max_retries=0,
)
def upscale(self: Any, job: Message) -> Message:
    """Run one job, and return its result. Raises `UpscaleFailedError` if the job fails."""
    return _deliver(self, job)


@app.task(
    name=PIPELINE_TASK,
    base=UpscaleTask,
    bind=True,
    throws=(UpscaleFailedError,),
    max_retries=0,
)
def pipeline(self: Any, job: Message) -> Message:
    """File one picture of a bucket, by a job of the form in `upscaled_queue.pipeline.task`, and
    return its result. Raises as `upscale` does."""
    return _deliver(self, job)


def _deliver(task: Any, job: Message) -> Message:
    if _machine is None:
        raise Reject("no machine runs here", requeue=True)
    lease = task.request.properties["delivery_tag"] if _settings.url.is_redis else None
    try:
        outcome = _machine.run(job, uuid.uuid4().hex, lease=lease)
    except Exception as error:
        # If the task raised it, Celery would acknowledge the message, and the job would be lost.
        job_id = job.get("job_id") if isinstance(job, Mapping) else None
        _machine.log.log("error", "delivery_failed", job_id=job_id, detail=repr(error))
        time.sleep(_LONGEST_PAUSE_S)
        raise Reject(repr(error), requeue=True) from error
    if isinstance(outcome, Ended):
        if outcome.event["type"] == "error":
            raise UpscaleFailedError(outcome.event)
        return outcome.event
    if outcome.delay_s and not _machine.is_stopping:
        if not _settings.url.is_redis and _is_sent_later(_machine, task, job, outcome.delay_s):
            raise Ignore
        time.sleep(min(outcome.delay_s, _LONGEST_PAUSE_S))
    raise Reject("given back", requeue=True)


def _is_sent_later(machine: Machine, task: Any, job: Message, delay_s: float) -> bool:
    """Have RabbitMQ hold the message until its time. A message that is rejected comes again at
    once, and RabbitMQ 4 drops it the 21st time. False if RabbitMQ does not take it."""
    queue = routed(_settings, job, {})["queue"]
    try:
        task.signature_from_request(queue=queue, countdown=math.ceil(delay_s)).apply_async()
    except Exception as error:  # noqa: BLE001 - the message must not be acknowledged then
        machine.log.log("warning", "not_sent_later", detail=reason_of(error))
        return False
    return True


class CeleryEngine:
    """The engine as the pulse uses it, on a connection of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._renew: Any = None
        if settings.url.is_redis:
            self._renew = connect(settings.url.broker).register_script(scripts.RENEW)

    def renew(self, leases: list[str]) -> None:
        """Hold what runs here, or waits here for its time, and nothing else: deliveries that leaked
        in an outage must lapse."""
        held = [*leases, *_scheduled()]
        if self._renew is not None and held:
            self._renew([_UNACKED_INDEX], held)

    def waiting(self, *, is_soon: bool) -> int:
        """Jobs that wait in all queues of this machine."""
        return count_waiting(self._settings, is_soon=is_soon)


def _scheduled() -> list[str]:
    """The delivery tags of messages with a `countdown` or an `eta`, which Celery keeps until then.
    Without a lease each of them would come again, to one machine after the other, and all of these
    machines would start it at once."""
    from celery.worker.state import scheduled_requests

    # A copy of the weak set's references in one step, because Celery's thread changes it.
    requests = (reference() for reference in tuple(scheduled_requests.data))
    return [request.message.delivery_tag for request in requests if request is not None]


def host(machine: Machine, capacity: int) -> None:
    """Run this process's tasks on that machine. capacity: the threads that run them."""
    from upscaled_queue.consumer import Consumer
    from upscaled_queue.pulse import Pulse

    global _machine  # noqa: PLW0603 - a process has one
    _machine = machine

    def leave() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def log_dropped(queue: str, reason: str) -> None:
        machine.log.log("error", "message_dropped", queue=queue, detail=reason)

    Consumer.on_dropped = staticmethod(log_dropped)
    ResultBackend.given_up = machine.given_up
    if machine.settings.url.is_redis:
        from upscaled_queue.transport import Channel, QoS

        QoS.running = staticmethod(lambda: [run.lease for run in machine.running() if run.lease])
        Channel.on_dropped = staticmethod(log_dropped)
    machine.on_failed = leave
    engine = CeleryEngine(machine.settings)
    Pulse(machine, engine, capacity, leave).start()


def work(machine: Machine, workers: int) -> int:
    """Work until a signal, or until there is nothing to do; the exit status."""
    settings = machine.settings
    capacity = settings.slots * workers
    host(machine, capacity)
    from upscaled_queue.celerylog import log_little

    log_little()
    signals.setup_logging.connect(log_little, weak=False)
    queues = [settings.queue_of(method) for method in settings.methods]
    if not settings.url.is_redis:
        queues += [queue + URGENT for queue in queues]
    worker = app.Worker(
        hostname=f"{settings.machine}@upscaled",
        pool_cls="threads",
        concurrency=capacity,
        queues=queues,
        without_gossip=True,
        without_mingle=True,
        quiet=True,
    )
    worker.start()
    if not machine.is_stopping:
        # Celery gave up, and has logged why.
        machine.kill()
        return EXIT_STUCK
    machine.wait_stopped()
    # Celery stops the machine too if it gives up by itself, and has logged why.
    return machine.exit_status or (EXIT_STUCK if worker.exitcode else EXIT_OK)


# --- a worker that Celery's own command started -------------------------------------------------


@signals.worker_init.connect
def _start_machine(sender: Any = None, **_: Any) -> None:
    if _machine is not None or sender is None or sender.app is not app:
        return
    from dataclasses import replace

    from upscaled_queue.machine import Machine
    from upscaled_queue.redisserver import check_server

    prefix = _settings.queue_prefix
    queues = [queue.removesuffix(URGENT) for queue in app.amqp.queues.consume_from]
    methods = tuple(dict.fromkeys(queue.removeprefix(prefix) for queue in queues))
    webhooks = read_webhook_settings(os.environ)
    settings = replace(_settings, methods=methods, webhooks=webhooks)
    configure(settings)
    log = Logger(2, component="work", machine=settings.machine)
    check_server(settings.url, log)
    machine = Machine(settings, log)
    workers = machine.start()
    if sender.concurrency == settings.slots:
        # The command has no -c, so the number is the setting's, which is per worker of the daemon.
        sender.concurrency *= workers
    host(machine, sender.concurrency)


@signals.task_revoked.connect
def _end_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    """A job that Celery does not start has an end too."""
    if _machine is None or sender is None or sender.app is not app or not request.args:
        return
    why = "its `expires` had passed" if expired else "it was revoked in Celery"
    with contextlib.suppress(RecordLostError):
        _machine.ends.cancel(request.args[0], f"before it started, because {why}")


@signals.worker_shutting_down.connect
def _stop_machine(**_: Any) -> None:
    if _machine is not None:
        _machine.stop()


@signals.worker_shutdown.connect
def _leave(**_: Any) -> None:
    if _machine is not None:
        _machine.wait_stopped()


configure(settings_from(os.environ))
