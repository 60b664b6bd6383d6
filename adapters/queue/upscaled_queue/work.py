"""`upscaled work`: a machine that takes jobs from a queue."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from upscaled_protocol.optionvalues import above_zero, count
from upscaled_queue import options as shared
from upscaled_queue.exits import EXIT_FAILED, EXIT_NO_DAEMON, EXIT_USAGE
from upscaled_queue.queueurl import QueueUrlError, read_queue_url
from upscaled_queue.settings import (
    DEFAULT_GRACE_S,
    DEFAULT_KEEP_S,
    DEFAULT_LEASE_S,
    DEFAULT_MAX_DELIVERIES,
    DEFAULT_SLOTS,
    Settings,
)

if TYPE_CHECKING:
    from upscaled_queue.machine import Machine

    Work = Callable[[Machine, int], int]

_EXAMPLES = """\
One command is one machine: it starts one `upscaled run`, which has a worker for each device.
Everyone who can write to the queue can give jobs. So paths are taken only below --allow-root, URLs
only below --allow-url, and models by their names in the catalogue.

examples:
  upscaled work --queue redis://redis:6379/0 --methods esrgan --allow-root /pictures
  upscaled work --queue bullmq://redis:6379/0 --methods esrgan,flux --allow-root /pictures
  upscaled work --queue amqp://rabbit// --record redis://redis:6379/0 --methods esrgan \\
      --allow-root /pictures
  upscaled work --queue redis://redis:6379/0 --methods esrgan --idle-exit-s 600 && shutdown -h now
  upscaled work --queue redis://redis:6379/0 --methods flux -- --device cuda:0,cuda:1
  upscaled work --queue redis://redis:6379/0 --methods esrgan,pipeline --allow-url s3://pictures/

A job's webhook_url is sent its end, if UPSCALED_WEBHOOKS_SECRET (or _FILE) is set.

SIGTERM gives running jobs --grace-s to end, and what does not end goes back into the queue,
uncharged. A second signal ends it now.

exit status: 0 it was stopped or had nothing to do, 1 the queue cannot be reached, 2 wrong usage or
a queue that would lose jobs, 3 no daemon can be kept alive, 75 nothing was delivered any more
though jobs waited: start it again.
"""


def main(argv: Sequence[str]) -> int:
    """Work until a signal, or until there is nothing to do; the exit status."""
    arguments, daemon_args = shared.cut_daemon_options(argv)
    options = parser().parse_args(arguments)
    try:
        url = read_queue_url(options.queue, options.record)
        webhooks = shared.webhook_settings(options)
    except ValueError as error:
        print(f"upscaled work: {error}", file=sys.stderr)
        return EXIT_USAGE
    settings = Settings(
        url=url,
        methods=options.methods,
        slots=options.slots,
        lease_s=options.lease_s,
        max_deliveries=options.max_deliveries,
        grace_s=options.grace_s,
        idle_exit_s=options.idle_exit_s,
        keep_s=round(options.keep_s),
        queue_prefix=options.queue_prefix,
        allow_roots=tuple(options.allow_root),
        allow_urls=tuple(options.allow_url),
        allow_scores=tuple(options.allow_score),
        metrics_address=options.metrics_address,
        webhooks=webhooks,
        daemon_args=tuple(daemon_args),
    )
    try:
        return _work(settings)
    except ModuleNotFoundError as error:
        return shared.say_missing("upscaled work", error, url.engine)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled work",
        usage="%(prog)s [--help] --queue URL --methods METHODS [option ...] "
        "[-- option of `upscaled run` ...]",
        description="Take jobs from a queue, and do them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    shared.add_queue_options(arguments)
    add = arguments.add_argument
    add(
        "--methods",
        type=shared.queues,
        default=("esrgan",),
        help="the methods to serve, by comma; each has a queue of its name (default: esrgan). "
        "`pipeline` files pictures of buckets",
    )
    add(
        "--slots",
        type=count,
        default=DEFAULT_SLOTS,
        help="jobs at once per worker of the daemon (default: %(default)s)",
    )
    add(
        "--lease-s",
        type=above_zero,
        default=DEFAULT_LEASE_S,
        help="silence of a machine before its jobs start elsewhere; the same on all machines "
        "(default: %(default)g)",
    )
    add(
        "--max-deliveries",
        type=count,
        default=DEFAULT_MAX_DELIVERIES,
        help="starts of a job before it ends as poisoned (default: %(default)s)",
    )
    add(
        "--grace-s",
        type=above_zero,
        default=DEFAULT_GRACE_S,
        help="time to finish jobs after SIGTERM (default: %(default)g)",
    )
    add(
        "--idle-exit-s",
        type=above_zero,
        metavar="S",
        help="exit with status 0 after S seconds without any job",
    )
    add(
        "--keep-s",
        type=above_zero,
        default=float(DEFAULT_KEEP_S),
        help="how long the ends of jobs are kept (default: a week)",
    )
    add(
        "--allow-root",
        action="append",
        default=[],
        metavar="DIR",
        help="let jobs name files below DIR; may be repeated (default: none)",
    )
    add(
        "--allow-url",
        action="append",
        default=[],
        metavar="URL",
        help="let jobs name URLs below URL; may be repeated (default: none)",
    )
    add(
        "--allow-score",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="let pictures of the pipeline name this score of your own; may be repeated",
    )
    shared.add_webhook_options(arguments)
    add("--metrics-address", metavar="HOST:PORT", help="serve Prometheus metrics of the queue")
    return arguments


def _work(settings: Settings) -> int:
    from upscaled import DaemonGoneError
    from upscaled_protocol.log import Logger
    from upscaled_queue.job import PIPELINE
    from upscaled_queue.machine import Machine
    from upscaled_queue.outages import reason_of
    from upscaled_queue.redisserver import UnsafeRedisError, check_server, is_away

    work = _engine_of(settings)
    log = Logger(2, component="work", machine=settings.machine)
    try:
        check_server(settings.url, log)
        if not settings.url.is_redis:
            from upscaled_queue.celeryproducer import CeleryProducer

            CeleryProducer(settings).check()
    except (UnsafeRedisError, QueueUrlError) as error:
        print(f"upscaled work: {error}", file=sys.stderr)
        return EXIT_USAGE
    except Exception as error:
        if not is_away(error):
            raise
        print(f"upscaled work: the queue cannot be used now: {reason_of(error)}", file=sys.stderr)
        return EXIT_FAILED
    if not settings.allow_roots:
        log.log("info", "no_paths", detail="no --allow-root was given: jobs with paths are refused")
    if PIPELINE in settings.methods and not settings.allow_urls:
        detail = "no --allow-url was given: pictures for the pipeline are refused"
        log.log("warning", "no_buckets", detail=detail)
    try:
        machine = Machine(settings, log)
    except ValueError as error:
        print(f"upscaled work: --allow-score: {error}", file=sys.stderr)
        return EXIT_USAGE
    if settings.metrics_address is not None:
        from upscaled_queue.metrics import serve_metrics

        try:
            serve_metrics(machine, settings.metrics_address)
        except (OSError, ValueError) as error:
            address = settings.metrics_address
            print(f"upscaled work: cannot serve metrics on {address}: {error}", file=sys.stderr)
            return EXIT_USAGE
    try:
        workers = machine.start()
    except DaemonGoneError as error:
        print(f"upscaled work: {error}", file=sys.stderr)
        return EXIT_USAGE if error.status == EXIT_USAGE else EXIT_NO_DAEMON
    log.log("info", "working", methods=settings.methods, workers=workers, slots=settings.slots)
    return work(machine, workers)


def _engine_of(settings: Settings) -> Work:
    """Before the daemon is started: an extra may be missing."""
    if settings.url.engine == "bullmq":
        from upscaled_queue import bullmq

        return bullmq.work
    from upscaled_queue import celery

    celery.configure(settings)
    return celery.work
