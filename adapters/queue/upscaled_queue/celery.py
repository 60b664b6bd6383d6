"""Celery, on Redis or RabbitMQ: the app, its two tasks, and the settings of its workers.

    celery -A upscaled_queue.celery worker -Q esrgan      # takes its settings from UPSCALED_QUEUE_*
    from upscaled_queue.celery import upscale; upscale.delay(job)

Without any one of these settings a trial lost jobs, or ran them again and again.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, signals
from celery.exceptions import Reject

from upscaled_protocol.log import Logger
from upscaled_queue import scripts
from upscaled_queue.celeryresults import SCHEME, ResultBackend
from upscaled_queue.depth import count_waiting
from upscaled_queue.ends import Ended
from upscaled_queue.exits import EXIT_OK, EXIT_STUCK
from upscaled_queue.job import PIPELINE, Message, QueuedJob, level_of
from upscaled_queue.record import RecordLostError, connect
from upscaled_queue.settings import URGENT, Settings, settings_from
from upscaled_queue.webhooks import read_webhook_settings

if TYPE_CHECKING:  # a backend that gives jobs has no machine
    from upscaled_queue.machine import Machine

# A message that is given back is delivered again at once if nothing else waits, so the task sleeps
# for a part of the delay. Also the longest pause before a result is written again.
_LONGEST_PAUSE_S = 1.0
# The time limit of a command to Redis. The wait for a message has none: the event loop does it.
_SOCKET_TIMEOUT_S = 10
_UNACKED_INDEX = "unacked_index"
# How long RabbitMQ may take to answer a producer. Without memory it takes no job, and says nothing.
_RABBITMQ_TIMEOUT_S = 5
# Its answers for a message that no queue would get, and for an exchange that is not there.
_NO_ROUTE, _NOT_FOUND = 312, 404


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
        options = _routed(_settings, job, options)
        send = partial(super().apply_async, (job,), {}, task_id=task_id, **options)
        is_delayed = bool(options.get("countdown") or options.get("eta"))
        return _sent(self.app, send, options["queue"], is_delayed=is_delayed)


def _routed(settings: Settings, job: Mapping[str, Any], options: Message) -> Message:
    """The options of Celery's `apply_async` with the job's queue and priority."""
    priority = job.get("priority")
    priority = priority if isinstance(priority, int) else 0
    more: Message = {"priority": level_of(priority)}
    if not settings.url.is_redis:
        # A job that no queue would get is an error.
        more = {"mandatory": True, "confirm_timeout": _RABBITMQ_TIMEOUT_S}
    urgent = URGENT if not settings.url.is_redis and priority > 0 else ""
    return {
        **more,
        "queue": settings.queue_of(str(job.get("method"))) + urgent,
        # Celery's events and Flower show the arguments, and the job's URLs may have secrets.
        "argsrepr": "(...)",
        **options,
        # For `queue depth`, which shows how long the oldest job has waited.
        "headers": {**options.get("headers", {}), "given_at": time.time()},
    }


def _sent(app: Celery, send: Callable[[], Any], queue: str, *, is_delayed: bool = False) -> Any:
    """Send a message. If RabbitMQ does not have its queue any more, or not yet what delays it, make
    that and send it again."""
    from amqp.exceptions import ChannelError

    try:
        return send()
    except ChannelError as error:
        if error.reply_code not in {_NO_ROUTE, _NOT_FOUND}:
            raise
    if is_delayed:
        from kombu.transport import native_delayed_delivery as delays

        with app.connection_for_write() as connection:
            own = app.amqp.queues[queue]
            own(connection.default_channel).declare()
            delays.declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
            delays.bind_queue_to_native_delayed_delivery_exchange(connection, own)
    # On a new connection, which declares the queue.
    return send()


app = Celery("upscaled", set_as_current=False)
_settings: Settings
_machine: Machine | None = None


def configure(settings: Settings) -> None:
    """Take these settings, before the app is used."""
    global _settings  # noqa: PLW0603 - an app is a process's own
    _settings = settings
    app.conf.update(celery_settings(settings))


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for these settings, under Celery's own names."""
    common: dict[str, Any] = {
        "broker_url": settings.url.broker,
        "result_backend": SCHEME + settings.url.record,
        "result_expires": settings.keep_s,
        # A result that cannot be written would be raised, and the message acknowledged.
        "result_backend_always_retry": True,
        "result_backend_max_retries": math.inf,
        "result_backend_max_sleep_between_retries_ms": _LONGEST_PAUSE_S * 1000,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        # The daemon's processes isolate jobs. In a prefork pool each child would load a model, and
        # CUDA does not work after a fork.
        "worker_pool": "threads",
        "worker_concurrency": settings.slots,
        "worker_consumer": "upscaled_queue.consumer:Consumer",
        # Acknowledge after the end, because else a killed machine's jobs are lost.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        # A running job keeps its lease while the connection is lost.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_prefetch_multiplier": 1,
        # With late acknowledgement the prefetch count grows, and the worker holds jobs that others
        # could run.
        "worker_disable_prefetch": settings.url.is_redis,
        # Saves one write per job, because the record has what runs.
        "task_track_started": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "task_default_queue": settings.queue_of("esrgan"),
    }
    return {**common, **(_redis(settings) if settings.url.is_redis else _rabbitmq())}


def _redis(settings: Settings) -> dict[str, Any]:
    return {
        # A Redis that takes no writes for now is asked again, also while the worker starts.
        "broker_channel_error_retry": True,
        "task_default_queue_type": "classic",
        "task_create_missing_queue_type": "classic",
        "broker_transport": "upscaled_queue.transport:Transport",
        "broker_transport_options": {
            "visibility_timeout": settings.lease_s,
            # By default, abandoned messages are searched for every 100 s, and a machine that is
            # killed during a search keeps the others from searching for 300 s.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_mutex_expire": max(1, math.ceil(settings.lease_s / 4)),
            "queue_order_strategy": "priority",
            "priority_steps": list(range(10)),
            "socket_timeout": _SOCKET_TIMEOUT_S,
            "socket_connect_timeout": _SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
        },
    }


def _rabbitmq() -> dict[str, Any]:
    # No x-delivery-limit: it also counts jobs that are given back, and drops those above the limit.
    # The record counts deliveries.
    return {
        "task_default_queue_type": "quorum",
        "task_create_missing_queue_type": "quorum",
        # With direct exchanges a machine holds a job with a `countdown` in one of its slots.
        "task_default_exchange_type": "topic",
        "task_create_missing_queue_exchange_type": "topic",
        "broker_heartbeat": 10,
        "broker_transport": None,
        "broker_transport_options": {"confirm_publish": True},
    }


@app.task(
    name="upscaled.upscale",
    base=UpscaleTask,
    bind=True,
    throws=(UpscaleFailedError,),
    max_retries=0,
)
def upscale(self: Any, job: Message) -> Message:
    """Run one job, and return its result. Raises `UpscaleFailedError` if the job fails."""
    return _deliver(self, job)


@app.task(
    name="upscaled.pipeline",
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
        time.sleep(min(outcome.delay_s, _LONGEST_PAUSE_S))
    raise Reject("given back", requeue=True)


class CeleryProducer:
    """Gives jobs to one queue. It has an app of its own, because `app` keeps the connections of the
    settings with which it was used first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app = Celery("upscaled", set_as_current=False)
        self._app.conf.update(celery_settings(settings))
        if not settings.url.is_redis:
            # To close the connection takes an answer too.
            limits = dict.fromkeys(("read_timeout", "write_timeout"), _RABBITMQ_TIMEOUT_S)
            self._app.conf.broker_transport_options |= limits

    def check(self) -> None:
        """Connect once. Raises the errors of Celery's clients."""
        with self._app.connection_for_write() as connection:
            connection.connect()

    def submit(self, job: QueuedJob) -> None:
        """Put a job into its queue. Raises the errors of Celery's clients at once."""
        options: Message = {"task_id": job.job_id, "retry": False, "ignore_result": False}
        task = pipeline if job.method == PIPELINE else upscale
        options = _routed(self._settings, job.fields, options)
        _sent(
            self._app,
            lambda: self._app.send_task(task.name, (job.fields,), **options),
            options["queue"],
        )


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

    def waiting(self) -> int:
        """Jobs that wait in all queues of this machine."""
        return count_waiting(self._settings)


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
