"""The settings of a machine: the options of `upscaled work`, or variables of the environment."""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field

from upscaled_queue.queueurl import QueueUrl, read_queue_url
from upscaled_queue.webhooks import WebhookSettings

PREFIX = "UPSCALED_QUEUE_"

# Ends the name of a method's second queue on RabbitMQ: quorum queues have two priorities at most,
# so urgent jobs have a queue of their own.
URGENT = ".urgent"

# From a machine's last sign of life to the start of its jobs elsewhere. If this is longer, the jobs
# of a killed machine wait longer; if it is shorter, a machine that only paused loses its jobs.
DEFAULT_LEASE_S = 60.0
# A job that was started so often and never ended is the likely reason why its machines ended.
DEFAULT_MAX_DELIVERIES = 5
# Below the 30 s that container runtimes and spot notices leave.
DEFAULT_GRACE_S = 25.0
# One job computes while the next one's picture is decoded.
DEFAULT_SLOTS = 2
DEFAULT_KEEP_S = 7 * 24 * 3600


def _machine_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """methods: empty if Celery's own command names the queues. webhooks: None if this process sends
    none."""

    url: QueueUrl
    methods: tuple[str, ...] = ()
    slots: int = DEFAULT_SLOTS
    lease_s: float = DEFAULT_LEASE_S
    max_deliveries: int = DEFAULT_MAX_DELIVERIES
    grace_s: float = DEFAULT_GRACE_S
    idle_exit_s: float | None = None
    keep_s: int = DEFAULT_KEEP_S
    queue_prefix: str = ""
    allow_roots: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    allow_scores: tuple[str, ...] = ()
    metrics_address: str | None = None
    webhooks: WebhookSettings | None = None
    daemon_args: tuple[str, ...] = ()
    machine: str = field(default_factory=_machine_name)

    def queue_of(self, method: str) -> str:
        """The queue in which the method's jobs wait."""
        return f"{self.queue_prefix}{method}"


def settings_from(env: Mapping[str, str]) -> Settings:
    """The settings of a machine that Celery's own command starts. Raises `ValueError`."""

    def number(name: str, default: float) -> float:
        text = env.get(PREFIX + name)
        return default if text is None else float(text)

    roots = env.get(PREFIX + "ALLOW_ROOT", "")
    return Settings(
        url=read_queue_url(
            env.get(PREFIX + "URL", "redis://127.0.0.1:6379/0"), env.get(PREFIX + "RECORD")
        ),
        slots=int(number("SLOTS", DEFAULT_SLOTS)),
        lease_s=number("LEASE_S", DEFAULT_LEASE_S),
        max_deliveries=int(number("MAX_DELIVERIES", DEFAULT_MAX_DELIVERIES)),
        grace_s=number("GRACE_S", DEFAULT_GRACE_S),
        keep_s=int(number("KEEP_S", DEFAULT_KEEP_S)),
        queue_prefix=env.get(PREFIX + "PREFIX", ""),
        allow_roots=tuple(filter(None, roots.split(os.pathsep))),
        allow_urls=tuple(env.get(PREFIX + "ALLOW_URL", "").split()),
        allow_scores=tuple(env.get(PREFIX + "ALLOW_SCORE", "").split()),
        daemon_args=tuple(env.get(PREFIX + "DAEMON_ARGS", "").split()),
    )
