"""Options that `upscaled work` and `upscaled queue` share, and the message for a missing extra."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from upscaled_queue.exits import EXIT_FAILED
from upscaled_queue.settings import PREFIX
from upscaled_queue.webhooks import WebhookSettings, read_webhook_settings

# The extra of each engine, by the modules that it brings.
_EXTRAS = {"celery": "celery", "kombu": "celery", "bullmq": "bullmq", "redis": "celery"}
# The extras of modules that no engine brings.
_OTHER_EXTRAS = {
    "anyio": "webhooks",
    "httpcore2": "webhooks",
    "obstore": "storage",
    "standardwebhooks": "webhooks",
}


def add_queue_options(arguments: argparse._ActionsContainer) -> None:
    """Add the options that name the queue."""
    arguments.add_argument(
        "--queue",
        metavar="URL",
        default=os.environ.get(PREFIX + "URL"),
        help="redis://, rediss://, amqp://, amqps:// (Celery) or bullmq://, bullmqs:// "
        f"(default: {PREFIX}URL)",
    )
    arguments.add_argument(
        "--record",
        metavar="URL",
        default=os.environ.get(PREFIX + "RECORD"),
        help="the Redis that holds the ends of jobs (default: the queue's own; RabbitMQ has none)",
    )
    arguments.add_argument(
        "--queue-prefix",
        metavar="PREFIX",
        default=os.environ.get(PREFIX + "PREFIX", ""),
        help="what stands before a method in the names of its queue (default: nothing)",
    )


def add_webhook_options(arguments: argparse._ActionsContainer) -> None:
    """Add the option for the hosts that may get webhooks."""
    arguments.add_argument(
        "--allow-webhook",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="let webhooks go to this host, of a private network too, and to no host that is not "
        "given so; may be repeated (default: UPSCALED_WEBHOOKS_ALLOW_HOSTS, else the public "
        "internet)",
    )


def webhook_settings(options: argparse.Namespace) -> WebhookSettings | None:
    """The settings of webhooks; None if no secret is set. Raises `ValueError`."""
    return read_webhook_settings(os.environ, getattr(options, "allow_webhook", ()))


def methods(text: str) -> tuple[str, ...]:
    """Methods of the protocol, separated by commas. Raises `argparse.ArgumentTypeError`."""
    from upscaled_protocol.envelope import METHODS

    return _names(text, METHODS)


def queues(text: str) -> tuple[str, ...]:
    """The same, and also `pipeline`, which is no method of the protocol."""
    from upscaled_protocol.envelope import METHODS
    from upscaled_queue.job import PIPELINE

    return _names(text, (*METHODS, PIPELINE))


def _names(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(filter(None, (one.strip() for one in text.split(","))))
    if not names or any(name not in known for name in names):
        raise argparse.ArgumentTypeError(
            f"{text} names no methods; known: {', '.join(known)}, by comma"
        )
    return names


def cut_daemon_options(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before `--`, and those after it."""
    arguments = list(argv)
    if "--" not in arguments:
        return arguments, []
    cut = arguments.index("--")
    return arguments[:cut], arguments[cut + 1 :]


def say_missing(command: str, error: ModuleNotFoundError, engine: str | None) -> int:
    """Print which extra to install. Returns the exit status. Raises the error if the module belongs
    to no extra."""
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS and module not in _OTHER_EXTRAS:
        raise error
    extra = _OTHER_EXTRAS.get(module) or engine or _EXTRAS[module]
    print(
        f"{command}: the Python module {module} is missing: pip install 'upscaled[{extra}]'",
        file=sys.stderr,
    )
    return EXIT_FAILED
