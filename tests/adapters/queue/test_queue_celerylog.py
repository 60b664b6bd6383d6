"""What a machine logs of Celery during an outage."""

from __future__ import annotations

import logging

import pytest

pytest.importorskip("celery", reason="celery is not installed")

from upscaled_queue.celerylog import Seldom


def line(text: str) -> logging.LogRecord:
    return logging.LogRecord("celery", logging.WARNING, "", 0, text, None, None)


def test_a_line_is_logged_once_per_minute() -> None:
    now = 0.0
    seldom = Seldom(lambda: now)
    assert seldom.filter(line("away"))
    now = 59.0
    assert not seldom.filter(line("away"))
    assert seldom.filter(line("another"))
    now = 60.0
    assert seldom.filter(line("away"))


def test_what_celery_says_of_settings_that_are_set_here_is_not_logged() -> None:
    assert not Seldom().filter(line("consumer.py:427: CPendingDeprecationWarning: In Celery 5.1"))
