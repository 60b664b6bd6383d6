"""What a machine logs of Celery during an outage."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("celery", reason="celery is not installed")

from celery import Celery
from celery.exceptions import Reject
from celery.worker.consumer import consumer

from upscaled_queue.celerylog import SeldomLines
from upscaled_queue.seldom import Seldom

SECRET = "https://storage.example/a.png?token=secret"


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("celery", logging.WARNING, "", 0, text, None, None)


def test_a_line_is_logged_once_per_minute() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    assert seldom.is_due("away")
    now = 59.0
    assert not seldom.is_due("away")
    assert seldom.is_due("another")
    now = 60.0
    assert seldom.is_due("away")


def test_celerys_lines_are_logged_as_seldom() -> None:
    lines = SeldomLines()
    assert [lines.filter(line("away")) for _ in range(2)] == [True, False]


def test_what_celery_says_of_settings_that_are_set_here_is_not_logged() -> None:
    told = line("consumer.py:427: CPendingDeprecationWarning: In Celery 5.1")
    assert not SeldomLines().filter(told)


def test_a_job_that_is_given_back_has_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = Celery(set_as_current=False, task_always_eager=True)

    @app.task  # type: ignore[untyped-decorator]
    def give_back() -> None:
        raise Reject("given back", requeue=True)

    give_back.apply()
    (told,) = (record for record in caplog.records if "given back" in record.getMessage())
    assert not SeldomLines().filter(told)


@pytest.mark.parametrize(
    ("template", "arguments", "shown"),
    [
        (consumer.UNKNOWN_TASK_ERROR, ("'odd'", SECRET, SECRET, SECRET), "of type 'odd'."),
        (consumer.INVALID_TASK_ERROR, ("no id", SECRET), "message: no id"),
        (consumer.UNKNOWN_FORMAT, (SECRET,), "Wrong destination?!?"),
        (consumer.MESSAGE_DECODE_ERROR, ("cut", "t", "utf-8", SECRET, SECRET), "body: 'cut'"),
    ],
)
def test_nothing_of_a_message_that_celery_cannot_take_is_logged(
    template: str, arguments: tuple[str, ...], shown: str
) -> None:
    record = logging.LogRecord(
        "celery.worker.consumer.consumer", logging.ERROR, "", 0, template, arguments, None
    )
    assert SeldomLines().filter(record)
    assert record.getMessage().endswith(shown)
    assert "\n" not in record.getMessage()
