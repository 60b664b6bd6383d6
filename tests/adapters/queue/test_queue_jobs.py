"""What a queued message may be, and where it goes; no process is started."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest
import redis
from bullmq.custom_errors import DelayedError
from celery import signals

from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.log import Logger
from upscaled_queue import celery, redisserver, transport
from upscaled_queue.bullmq import BullWorker, bullmq_id, failed_reason
from upscaled_queue.celery import app, pipeline, upscale
from upscaled_queue.celeryresults import ResultBackend
from upscaled_queue.celerysettings import celery_settings
from upscaled_queue.command import main
from upscaled_queue.consumer import Consumer
from upscaled_queue.daemonargs import daemon_args, takes_paths
from upscaled_queue.ends import Ends, GivenBack
from upscaled_queue.job import (
    bullmq_priority,
    check_allowed,
    error_event,
    level_of,
    read_job,
    without_picture,
)
from upscaled_queue.machine import Machine
from upscaled_queue.options import say_missing
from upscaled_queue.outages import is_outage
from upscaled_queue.queueurl import QueueUrlError, read_queue_url, shown
from upscaled_queue.record import RecordLostError, Records
from upscaled_queue.settings import Settings


def esrgan(**config: Any) -> dict[str, Any]:
    return {"job_id": "1", "method": "esrgan", "config": {"image_path": "/in/a.png", **config}}


@pytest.mark.parametrize(
    ("url", "engine", "broker"),
    [
        ("redis://h:1/0", "celery", "redis://h:1/0"),
        ("bullmq://h:1/2", "bullmq", "redis://h:1/2"),
    ],
)
def test_a_url_names_the_engine_and_the_record_lies_beside_the_jobs(
    url: str, engine: str, broker: str
) -> None:
    assert read_queue_url(url) == (engine, broker, broker)


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "http://h",
        "amqp://h//",
        "redis://:secret@h:x/0",
        "redis://h:99999/0",
        "redis://h/pictures",
        "redis://[::1",
    ],
)
def test_a_url_that_names_no_queue_or_no_record_is_refused(url: str | None) -> None:
    with pytest.raises(QueueUrlError):
        read_queue_url(url)


def test_a_url_of_rabbitmq_has_no_options() -> None:
    with pytest.raises(QueueUrlError, match="SSL_CERT_FILE"):
        read_queue_url("amqps://h//?ssl_ca_certs=/ca", "redis://h/0")


def test_the_scheme_of_a_url_may_have_capitals() -> None:
    assert read_queue_url("REDIS://h:1/0") == ("celery", "redis://h:1/0", "redis://h:1/0")


@pytest.mark.parametrize("engine", ["redis", "bullmq"])
@pytest.mark.parametrize("command", ["depth", "submit"])
@pytest.mark.parametrize("option", ["nonsense=1", "db=nonsense"])
def test_an_option_of_the_url_that_the_client_does_not_take_is_wrong_usage(
    option: str, command: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{engine}://:secret@127.0.0.1:1/0?{option}"
    assert main([command, "--queue", url]) == 2
    told = capsys.readouterr().err
    assert "the URL redis://127.0.0.1:1/0 has a wrong option" in told
    assert "secret" not in told


def test_a_password_is_never_shown() -> None:
    assert shown("redis://user:secret@h:1/0?password=secret") == "redis://h:1/0"


def test_the_queues_own_fields_are_not_the_daemons() -> None:
    job = read_job({**esrgan(), "webhook_url": "https://h/", "traceparent": "00-1", "priority": 2})
    assert job.message == {**esrgan(), "priority": 2}
    assert job.fields["webhook_url"] == "https://h/"


@pytest.mark.parametrize("value", [7, "", "00-1", "00-" + "0" * 32 + "-" + "0" * 16 + "-01\n"])
def test_what_is_no_trace_is_not_logged(value: object) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    assert read_job({**esrgan(), "traceparent": trace}).traceparent == trace
    assert read_job({**esrgan(), "traceparent": value}).traceparent is None


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([], "invalid_job"),
        ({"job_id": "1", "method": "esrgan", "config": {1, 2}}, "invalid_job"),
        ({"method": "esrgan"}, "invalid_job"),
        ({"job_id": "1", "method": "nonsense"}, "unknown_method"),
        ({"type": "cancel", "job_id": "1"}, "invalid_job"),
        (esrgan(output_base64=True), "invalid_job"),
    ],
)
def test_what_is_no_job_for_a_queue_is_refused(fields: object, code: str) -> None:
    with pytest.raises(JobError) as caught:
        read_job(fields)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("config", "is_allowed"),
    [
        ({"model": "compact-x4"}, True),
        ({"model": "models/own.safetensors"}, False),
        ({"upscale_model": "OWN.PTH"}, False),
        ({"model": "own.sft"}, False),
        ({"pre_model": "own/denoise.pth"}, False),
        ({"image_url": "s3://bucket/in/a.png"}, True),
        ({"image_url": "https://h/in/a.png?X-Amz-Signature=1"}, True),
        ({"image_url": "s3://bucket/input/a.png"}, False),
        ({"image_url": "s3://bucket/in/../a.png"}, False),
        ({"image_url": "s3://bucket2/in/a.png"}, False),
        ({"image_url": "http://h/in/a.png"}, False),
        ({"image_url": "https://h.evil.example/in/a.png"}, False),
        ({"output_url": "s3://bucket/in/b.png"}, True),
        ({"output_url": "s3://bucket2/in/b.png"}, False),
    ],
)
def test_a_machine_takes_models_by_name_and_urls_below_those_that_it_allows(
    config: dict[str, Any], is_allowed: bool
) -> None:
    job, allowed = read_job(esrgan(**config)), ("s3://bucket/in/", "https://h/in")
    if is_allowed:
        check_allowed(job, allowed)
    else:
        with pytest.raises(JobError, match=r"model|--allow-url") as caught:
            check_allowed(job, allowed)
        assert caught.value.code == "path_not_allowed"
        assert "X-Amz" not in caught.value.message


def test_a_machine_passes_its_roots_and_prefixes_on_to_the_daemon() -> None:
    settings = Settings(
        url=read_queue_url("redis://h/0"),
        allow_roots=("/pictures",),
        allow_urls=("s3://bucket/in/", "https://h/in/"),
    )
    args = daemon_args(settings)
    pairs = list(pairwise(args))
    assert ("--allow-root", "/pictures") in pairs
    assert ("--allow-url", "s3://bucket/in/") in pairs
    assert ("--allow-url", "https://h/in/") in pairs


@pytest.mark.parametrize("name", ["image_path", "output_path"])
def test_a_machine_without_a_root_refuses_paths_and_names_the_option_that_allows_them(
    name: str,
) -> None:
    config = {"image_url": "s3://bucket/in/a.png", "output_path": "/out/b.png"}
    if name == "image_path":
        config = {"image_path": "/in/a.png"}
    job = read_job({"job_id": "1", "method": "esrgan", "config": config})
    check_allowed(job, ("s3://bucket/",))
    with pytest.raises(JobError, match=name) as caught:
        check_allowed(job, ("s3://bucket/",), takes_paths=False)
    assert caught.value.code == "path_not_allowed"
    assert "allows no local paths" in caught.value.message
    assert "--allow-root DIR" in caught.value.message
    assert "nonexistent" not in caught.value.message


@pytest.mark.parametrize(
    ("roots", "daemon", "is_taken"),
    [
        ((), (), False),
        (("/pictures",), (), True),
        ((), ("--allow-root", "/pictures"), True),
        ((), ("--allow-root=/pictures",), True),
    ],
)
def test_a_machine_takes_paths_if_it_or_its_daemon_has_a_root(
    roots: tuple[str, ...], daemon: tuple[str, ...], is_taken: bool
) -> None:
    settings = Settings(url=read_queue_url("redis://h/0"), allow_roots=roots, daemon_args=daemon)
    assert takes_paths(settings) is is_taken


def test_priorities_keep_their_order_on_each_engine() -> None:
    given = [-1_000_000, -5, -1, 0, 1, 4, 1_000_000]
    levels = [level_of(priority) for priority in given]
    assert levels == [9, 9, 5, 4, 3, 0, 0]
    numbers = [bullmq_priority(priority) for priority in given]
    assert numbers == sorted(numbers, reverse=True)
    assert min(numbers) >= 1
    assert max(numbers) <= 2_097_152


def test_bullmq_gets_an_id_that_it_takes() -> None:
    assert bullmq_id("poster-17.png") == "poster-17.png"
    assert len({bullmq_id(one) for one in ("17", "a:b", "a/b", "ä" * 128)}) == 4
    assert all(":" not in bullmq_id(one) for one in ("17", "a:b"))
    assert not bullmq_id("17").isdigit()
    assert {bullmq_id(one)[0] for one in ("wait", "failed", "meta", "stalled-check")} == {"h"}


def test_a_machine_that_fails_gives_the_job_back_to_bullmq_which_would_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved: list[tuple[object, ...]] = []

    async def redis_time() -> tuple[int, int]:
        return round(time.time()) + 10, 0

    client = SimpleNamespace(time=redis_time)
    monkeypatch.setattr("upscaled_queue.bullmq.connection_of", lambda *_, **__: client)

    async def move(*given: object) -> None:
        moved.append(given)

    def run(*_: object, **__: object) -> None:
        raise RecordLostError("the record cannot be reached")

    async def process() -> None:
        job = SimpleNamespace(id="7", data=esrgan(), backend=SimpleNamespace(moveToDelayed=move))
        settings = Settings(url=read_queue_url("bullmq://h/0"), methods=("esrgan",))
        with Path(os.devnull).open("wb") as log:
            machine = SimpleNamespace(settings=settings, run=run, log=Logger(log.fileno()))
            worker = BullWorker(cast(Machine, machine), workers=1)
            await worker._process(job, "token")

    with pytest.raises(DelayedError):
        asyncio.run(process())
    ((job_id, _, delay_ms, token, _),) = moved
    assert (job_id, delay_ms, token) == ("7", 1000, "token")


def test_a_machine_with_wrong_options_gives_its_jobs_to_another_one() -> None:
    given: list[str] = []
    records = SimpleNamespace(give_back=lambda _, token, **__: given.append(token))
    error = JobError(ErrorCode.WORKER_CRASHED, "there is no option --foo", retryable=False)
    with Path(os.devnull).open("wb") as log:
        settings = Settings(url=read_queue_url("redis://h/0"))
        ends = Ends(settings, cast(Records, records), Logger(log.fileno()))
        ended = ends.settle_or_retry(read_job(esrgan()), "token", error_event(error, "1"), 1)
    assert (ended, given) == (GivenBack(1.0), ["token"])


def test_a_failed_reason_says_if_the_error_is_not_as_retryable_as_its_code() -> None:
    def reason(code: str, *, retryable: bool) -> str:
        return failed_reason({"code": code, "error": "why", "retryable": retryable})

    assert reason("worker_crashed", retryable=True) == "worker_crashed: why"
    assert reason("worker_crashed", retryable=False) == "worker_crashed: why (not retryable)"
    assert reason("too_sleepy", retryable=False) == "too_sleepy: why"
    assert reason("too_sleepy", retryable=True) == "too_sleepy: why (retryable)"


def test_a_dead_letter_keeps_no_picture() -> None:
    assert without_picture(esrgan()) == esrgan()
    assert without_picture({"job_id": "1", "config": {"image_base64": "AAAA"}}) is None


def test_a_native_celery_producer_reaches_the_methods_queue_by_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(
        app,
        "send_task",
        lambda name, args, kwargs, **options: sent.append({**options, "job": args[0]}),
    )
    upscale.delay({"method": "flux", "config": {}, "priority": 3})
    assert (sent[0]["queue"], sent[0]["priority"]) == ("flux", 1)
    assert sent[0]["job"]["job_id"] == sent[0]["task_id"]
    # Flower and Celery's events show it, and a job's URLs may have tokens.
    assert sent[0]["argsrepr"] == "(...)"
    pipeline.delay({"config": {"bucket": "s3://b", "key": "a.png"}})
    assert (sent[1]["queue"], sent[1]["job"]["method"]) == ("pipeline", "pipeline")


def test_celery_acknowledges_late_and_hoards_nothing() -> None:
    set_to = celery_settings(Settings(url=read_queue_url("redis://h/0"), lease_s=7))
    assert set_to["task_acks_late"]
    assert set_to["worker_disable_prefetch"]
    assert set_to["broker_transport_options"]["visibility_timeout"] == 7
    rabbit = celery_settings(Settings(url=read_queue_url("amqp://h//", "redis://h/0")))
    assert rabbit["task_default_queue_type"] == "quorum"


@pytest.mark.parametrize(("given", "threads"), [(2, 6), (5, 5)], ids=["slots", "-c 5"])
def test_celerys_own_command_has_a_thread_for_each_slot_and_is_stuck_only_with_a_free_one(
    monkeypatch: pytest.MonkeyPatch, given: int, threads: int
) -> None:
    settings = Settings(url=read_queue_url("redis://h/0"), slots=2)
    machine = SimpleNamespace(settings=settings, given_up=Event())
    monkeypatch.setattr(machine, "start", lambda: 3, raising=False)
    capacities: list[int] = []

    def pulse(_machine: object, _engine: object, capacity: int, *_: object) -> SimpleNamespace:
        capacities.append(capacity)
        return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr("upscaled_queue.machine.Machine", lambda *_: machine)
    monkeypatch.setattr("upscaled_queue.pulse.Pulse", pulse)
    monkeypatch.setattr(redisserver, "check_server", lambda *_: None)
    monkeypatch.setattr(celery, "_machine", None)
    monkeypatch.setattr(celery, "_settings", machine.settings)
    monkeypatch.setattr(transport.QoS, "running", transport.QoS.running)
    for owner in (transport.Channel, Consumer):
        monkeypatch.setattr(owner, "on_dropped", owner.on_dropped)
    monkeypatch.setattr(ResultBackend, "given_up", None)

    class Worker:
        app = celery.app
        concurrency = given

    worker = Worker()
    signals.worker_init.send(sender=worker)
    assert (worker.concurrency, capacities) == (threads, [threads])


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [("redis://h/0", "celery", "celery"), ("bullmq://h/0", "bullmq", "bullmq")],
)
@pytest.mark.parametrize("command", [["work"], ["queue", "submit"]])
def test_a_missing_extra_is_named(command: list[str], url: str, module: str, extra: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\nfrom upscaled_cli.__main__ import main\n"
    )
    program += f"sys.exit(main({[*command, '--queue', url]!r}))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"pip install 'upscaled[{extra}]'" in done.stderr


@pytest.mark.parametrize("command", ["submit", "run"])
def test_a_closed_stdin_is_wrong_usage(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    assert main([command, "--queue", "redis://h/0"]) == 2
    assert "stdin is closed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "passes"),
    [
        ("MISCONF Redis is configured to save RDB snapshots, but ...", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("READONLY You can't write against a read only replica.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("NOPERM User default has no permissions to run the 'set' command", False),
    ],
)
def test_a_redis_that_takes_no_writes_for_now_counts_as_away(answer: str, passes: bool) -> None:
    parse: Any = redis.connection.DefaultParser.parse_error
    assert is_outage(parse(answer)) is passes


def test_a_user_without_rights_is_told_as_a_wrong_password_is_and_a_machine_does_not_wait() -> None:
    parse: Any = redis.connection.DefaultParser.parse_error
    for answer in ("NOPERM this user has no permissions", "WRONGPASS invalid username-password"):
        assert redisserver.is_away(parse(answer))
    assert not redisserver.is_away(parse("WRONGTYPE Operation against a key"))
    assert not is_outage(parse("NOPERM this user has no permissions"))


def test_a_machine_for_pictures_without_the_storage_extra_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    settings = Settings(url=read_queue_url("redis://h/0"), methods=("pipeline",))
    with pytest.raises(ModuleNotFoundError) as caught:
        Machine(settings, Logger(2))
    assert say_missing("upscaled work", caught.value, "celery") == 1
    assert "upscaled[storage]" in capsys.readouterr().err


def test_the_daemon_of_a_machine_for_pictures_upscales_them_in_a_folder_of_their_own() -> None:
    settings = Settings(url=read_queue_url("redis://h/0"), methods=("pipeline", "esrgan", "fake"))
    pairs = list(pairwise(daemon_args(settings, ("/scratch",))))
    assert ("--methods", "esrgan,fake") in pairs
    assert ("--allow-root", "/scratch") in pairs
