"""`upscaled queue`: give jobs to a queue, and look at what becomes of them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from upscaled_protocol.optionvalues import above_zero
from upscaled_queue import options as shared
from upscaled_queue.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from upscaled_queue.queueurl import QueueUrlError, read_queue_url
from upscaled_queue.settings import DEFAULT_KEEP_S, DEFAULT_LEASE_S, Settings

if TYPE_CHECKING:
    from upscaled_queue.job import QueuedJob
    from upscaled_queue.record import Records

_EXAMPLES = """\
examples:
  upscaled jobs photos/*.jpg -o upscaled/ | upscaled queue submit --queue redis://redis:6379/0
  upscaled queue run --methods esrgan,flux < jobs.jsonl     # as `upscaled run`, on the fleet
  upscaled queue results --follow              # with UPSCALED_QUEUE_URL set
  upscaled queue results job-1 job-2
  upscaled queue status job-1
  upscaled queue cancel job-1
  upscaled queue depth --methods esrgan,flux
  UPSCALED_WEBHOOKS_SECRET_FILE=webhook.secret upscaled queue webhooks
  upscaled queue dead | jq -r .job_id | xargs -n 1 upscaled queue requeue

All of them print JSON lines. A job's end is the protocol's `result` or `error`; giving a job_id
twice gives one end.

exit status: 0 done, 1 a job was refused, is not known or has not ended, or the queue cannot be
used, 2 wrong usage or a queue that would lose jobs.
"""


class _Given(NamedTuple):
    """What each command may use."""

    options: argparse.Namespace
    settings: Settings
    records: Records


def main(argv: Sequence[str]) -> int:
    """Run one of the commands; the exit status."""
    options = parser().parse_args(list(argv))
    if options.command in ("run", "submit") and sys.stdin is None:
        print(
            "upscaled queue: stdin is closed, and jobs come there: redirect it, < jobs.jsonl",
            file=sys.stderr,
        )
        return EXIT_USAGE
    try:
        url = read_queue_url(options.queue, options.record)
        webhooks = shared.webhook_settings(options) if "allow_webhook" in options else None
    except ValueError as error:
        print(f"upscaled queue: {error}", file=sys.stderr)
        return EXIT_USAGE
    settings = Settings(
        url=url,
        methods=getattr(options, "methods", ()),
        lease_s=getattr(options, "lease_s", DEFAULT_LEASE_S),
        keep_s=round(getattr(options, "keep_s", DEFAULT_KEEP_S)),
        queue_prefix=options.queue_prefix,
        webhooks=webhooks,
    )
    try:
        return _run(options, settings)
    except ModuleNotFoundError as error:
        return shared.say_missing("upscaled queue", error, url.engine)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled queue",
        description="Give jobs to a queue, and look at what becomes of them.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = arguments.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        shared.add_queue_options(one)
        return one

    run = command("run", "be the daemon of the fleet: the protocol on stdio, as `upscaled run`")
    run.add_argument(
        "--methods",
        type=shared.methods,
        default=("esrgan",),
        help="the methods that the machines serve, by comma (default: esrgan)",
    )
    _add_lease(run)
    _add_keep(run)
    shared.add_webhook_options(run)
    webhooks = command("webhooks", "send the webhooks of ended jobs, also while no machine runs")
    _add_lease(webhooks)
    shared.add_webhook_options(webhooks)
    submit = command("submit", "read job lines from stdin, and put the jobs into their queues")
    _add_keep(submit)
    results = command("results", "print the ends of jobs, as lines of the protocol")
    results.add_argument("ids", nargs="*", metavar="ID", help="default: all that are kept")
    results.add_argument("--follow", action="store_true", help="go on as more jobs end")
    for name, summary in (
        ("status", "tell where a job is: waiting, running with its progress, or ended"),
        ("depth", "tell what waits and runs, for those who add and take away machines"),
    ):
        one = command(name, summary)
        _add_lease(one)
        if name == "status":
            one.add_argument("id", metavar="ID")
        else:
            one.add_argument(
                "--methods", type=shared.queues, default=("esrgan",), help="default: esrgan"
            )
    command("cancel", "end a job as cancelled, running or not").add_argument("id", metavar="ID")
    command("dead", "print the ends of the jobs that failed")
    requeue = command("requeue", "delete the end of a job that failed, and give the job anew")
    requeue.add_argument("id", metavar="ID")
    _add_keep(requeue)
    return arguments


def _add_lease(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--lease-s",
        type=above_zero,
        default=DEFAULT_LEASE_S,
        help="that of the machines (default: %(default)g)",
    )


def _add_keep(arguments: argparse.ArgumentParser) -> None:
    arguments.add_argument(
        "--keep-s",
        type=above_zero,
        default=float(DEFAULT_KEEP_S),
        help="how long it is kept that a job was given (default: a week)",
    )


def _run(options: argparse.Namespace, settings: Settings) -> int:
    from upscaled_queue.outages import reason_of
    from upscaled_queue.record import Records
    from upscaled_queue.redisserver import UnsafeRedisError, check_server, is_away

    run = {
        "run": _front,
        "submit": _submit,
        "results": _results,
        "status": _status,
        "cancel": _cancel,
        "depth": _depth,
        "dead": _dead,
        "requeue": _requeue,
        "webhooks": _webhooks,
    }[options.command]
    try:
        if options.command in ("run", "submit", "requeue"):
            # Before anything is asked: an extra may be missing.
            import_module(f"upscaled_queue.{settings.url.engine}")
            check_server(settings.url)
        return run(_Given(options, settings, Records(settings.url.record, settings.keep_s)))
    except (UnsafeRedisError, QueueUrlError) as error:
        print(f"upscaled queue: {error}", file=sys.stderr)
        return EXIT_USAGE
    except BrokenPipeError:
        raise
    except Exception as error:
        if not is_away(error):
            raise
        print(f"upscaled queue: the queue cannot be used now: {reason_of(error)}", file=sys.stderr)
        return EXIT_FAILED


def _front(given: _Given) -> int:
    from upscaled_queue.front import Front
    from upscaled_queue.producer import Producer

    producer = Producer(given.settings, given.records)
    front = Front(given.settings, given.records, producer, sys.stdin.fileno(), sys.stdout.fileno())
    with _sending(given.settings):
        return front.serve()


def _webhooks(given: _Given) -> int:
    from upscaled_queue.redisserver import check_server

    if given.settings.webhooks is None:
        print(
            "upscaled queue: webhooks are signed: set UPSCALED_WEBHOOKS_SECRET, or "
            "UPSCALED_WEBHOOKS_SECRET_FILE, as it is set on the machines",
            file=sys.stderr,
        )
        return EXIT_USAGE
    check_server(given.settings.url)
    ends = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with _sending(given.settings):
        signal.sigwait(ends)
    return EXIT_OK


@contextlib.contextmanager
def _sending(settings: Settings) -> Iterator[None]:
    """Send webhooks meanwhile, if there is a secret."""
    if settings.webhooks is None:
        yield
        return
    from upscaled_protocol.log import Logger
    from upscaled_queue.sender import WebhookSender

    log = Logger(2, component="webhooks", machine=settings.machine)
    sender = WebhookSender(settings, settings.webhooks, log)
    sender.start()
    log.log("info", "sending_webhooks")
    try:
        yield
    finally:
        sender.stop()


def _submit(given: _Given) -> int:
    from upscaled_protocol.errors import JobError
    from upscaled_queue.producer import Producer

    producer = Producer(given.settings, given.records)
    status = EXIT_OK
    for lines in _batches():
        jobs: list[QueuedJob] = []
        answers: list[dict[str, Any]] = []
        for line in lines:
            try:
                jobs.append(_job_of(line))
                answers.append({"type": "queued", "job_id": jobs[-1].job_id})
            except JobError as error:
                status = EXIT_FAILED
                answers.append(error.message_fields())
        producer.submit(jobs)
        _print(answers)
    return status


def _batches() -> Iterator[list[bytes | None]]:
    """The lines of stdin as they come; None for one that is too long."""
    from upscaled_protocol.lines import READ_SIZE_BYTES, LineSplitter

    lines = LineSplitter()
    while chunk := os.read(sys.stdin.fileno(), READ_SIZE_BYTES):
        yield lines.feed(chunk)
    yield lines.end()


def _job_of(line: bytes | None) -> QueuedJob:
    """The job of a line, with an id. Raises `JobError`."""
    from upscaled_protocol.errors import ErrorCode, JobError
    from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES, decode_line
    from upscaled_queue.job import read_job

    if line is None:
        raise JobError(
            ErrorCode.LINE_TOO_LONG,
            f"a job's line has at most {DEFAULT_LINE_LIMIT_BYTES} bytes: give a path or a URL "
            "instead of base64",
        )
    try:
        fields = decode_line(line)
    except ValueError as error:
        raise JobError(ErrorCode.INVALID_JSON, f"the line is not JSON: {error}") from None
    if isinstance(fields, dict):
        fields.setdefault("job_id", str(uuid.uuid4()))
    return read_job(fields)


def _results(given: _Given) -> int:
    if not given.options.ids:
        _print(given.records.ends(is_followed=given.options.follow))
        return EXIT_OK
    missing = dict.fromkeys(given.options.ids)
    for job_id in list(missing):
        event = given.records.end_of(job_id)
        if event is not None:
            _print([event])
            del missing[job_id]
    if missing and given.options.follow:
        for event in given.records.ends(is_followed=True):
            if event["job_id"] in missing:
                _print([event])
                del missing[event["job_id"]]
                if not missing:
                    break
    for job_id in missing:
        print(f"upscaled queue: job {job_id} has no end that is kept", file=sys.stderr)
    return EXIT_FAILED if missing else EXIT_OK


def _status(given: _Given) -> int:
    status = given.records.status_of(given.options.id, given.settings.lease_s)
    _print([status])
    return EXIT_FAILED if status["state"] == "unknown" else EXIT_OK


def _cancel(given: _Given) -> int:
    state = given.records.status_of(given.options.id, given.settings.lease_s)["state"]
    if given.records.cancel(given.options.id):
        if state == "unknown":  # Celery's and BullMQ's own producers write no record
            print(
                f"upscaled queue: no job {given.options.id} is known here: if one waits or is "
                "given later, it ends as cancelled",
                file=sys.stderr,
            )
        return EXIT_OK
    print(f"upscaled queue: job {given.options.id} has ended", file=sys.stderr)
    return EXIT_FAILED


def _depth(given: _Given) -> int:
    from upscaled_queue.depth import depth

    if given.settings.url.engine == "celery" and not given.settings.url.is_redis:
        from upscaled_queue import celery

        celery.configure(given.settings)
    _print([depth(given.settings, given.records)])
    return EXIT_OK


def _dead(given: _Given) -> int:
    _print(given.records.dead())
    return EXIT_OK


def _requeue(given: _Given) -> int:
    from upscaled_queue.job import read_job
    from upscaled_queue.producer import Producer

    producer = Producer(given.settings, given.records)
    producer.check()  # before its end is deleted, because the job is nowhere else
    fields = given.records.forget(given.options.id)
    if fields is None:
        print(
            f"upscaled queue: job {given.options.id} did not fail, or was not kept because its "
            "picture was in it: give it anew",
            file=sys.stderr,
        )
        return EXIT_FAILED
    job = read_job(fields)
    producer.submit_again(job)
    _print([{"type": "queued", "job_id": job.job_id}])
    return EXIT_OK


def _print(messages: Iterable[dict[str, Any]]) -> None:
    from upscaled_protocol.lines import encode_line

    for message in messages:
        sys.stdout.buffer.write(encode_line(message))
        sys.stdout.buffer.flush()
