"""Webhooks on a clock of the test: attempts, pauses, restarts, and what the log says."""

from __future__ import annotations

import asyncio
import json
import sqlite3

import pytest

from upscaled_http.messages import JobStatus
from upscaled_webhooks import webhooks as sending
from upscaled_webhooks.deliveries import Delivery
from upscaled_webhooks.receivers import DeliveryError
from upscaled_webhooks.webhooks import GIVEN_UP_AFTER_S
from webhook_bench import Bench, Run, record


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_the_end_of_a_job_is_sent_with_the_job_and_no_more(run: Run, status: JobStatus) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 204
        ended = record("one")
        ended.status = status
        bench.jobs.handle_end(ended)
        assert await bench.receivers.next() == ("a.example", "one")
        await bench.wait_settled()
        (body,) = bench.receivers.bodies
        assert json.loads(body) == {
            "type": f"job.{status}",
            "timestamp": "2001-09-09T01:46:40.500000Z",
            "data": json.loads(ended.body()),
        }
        assert bench.webhooks.counts == {"delivered": 1}
        assert bench.log.lines == []

    run(test)


def test_a_receiver_that_fails_is_tried_for_a_day_with_growing_pauses(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        began = bench.clock.now()
        bench.add("one")
        pauses: list[float] = []
        await bench.receivers.next()
        await bench.recorded(1)
        while not bench.webhooks.counts["given_up"]:
            pauses.append(await bench.clock.pass_pause())
            await bench.receivers.next()
            await bench.recorded(len(pauses) + 1)
        assert pauses == [5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800]
        assert GIVEN_UP_AFTER_S - 28800 < bench.clock.now() - began <= GIVEN_UP_AFTER_S
        assert bench.webhooks.counts == {"failed": 10, "given_up": 1}
        assert bench.webhooks.pending == 0
        assert len(set(bench.receivers.bodies)) == 1
        assert {headers["webhook-id"] for headers in bench.receivers.headers} == {"one"}
        assert len({headers["webhook-timestamp"] for headers in bench.receivers.headers}) == 11

    run(test)


def test_the_log_shows_the_first_failure_and_the_last_and_never_the_url(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = DeliveryError("took longer than 15 s")
        bench.add("one")
        failed = await bench.log.wait("webhook failed")
        await bench.clock.pass_pause()
        await bench.receivers.next()
        await bench.receivers.next()
        bench.receivers.answers["a.example"] = 410
        await bench.clock.pass_pause()
        given_up = await bench.log.wait("given up")
        assert failed == {
            "job_id": "one",
            "receiver": "a.example:443",
            "attempts": 1,
            "reason": "took longer than 15 s",
        }
        assert given_up["attempts"] == 3
        assert given_up["reason"] == "answers 410"
        assert len(bench.log.lines) == 2
        assert "hush" not in str(bench.log.lines)

    run(test)


@pytest.mark.parametrize("status", [199, 301, 404, 429, 503])
def test_only_2xx_is_success(run: Run, status: int) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = status
        bench.add("one")
        await bench.receivers.next()
        bench.receivers.answers["a.example"] = 200
        assert await bench.clock.pass_pause() == 5
        await bench.receivers.next()
        await bench.wait_settled()
        assert bench.webhooks.counts == {"failed": 1, "delivered": 1}

    run(test)


def test_what_a_sender_did_not_foresee_is_a_failure_with_a_pause(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = RuntimeError("token=hush")
        bench.add("one")
        assert (await bench.log.wait("webhook failed"))["reason"] == "RuntimeError"
        assert await bench.clock.pass_pause() == 5

    run(test)


def test_a_receiver_that_answers_again_gets_what_was_kept_for_it(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 502
        for number in range(5):
            bench.add(str(number))
        for _ in range(5):
            await bench.receivers.next()
        bench.receivers.answers["a.example"] = 200
        await bench.clock.pass_pause()
        await bench.wait_settled()
        assert bench.webhooks.counts == {"failed": 5, "delivered": 5}

    run(test)


def test_a_webhook_survives_a_restart_with_its_pause(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        bench.add("one")
        await bench.receivers.next()
        await bench.log.wait("webhook failed")
        await bench.clock.pass_pause()
        await bench.receivers.next()
        await bench.restart()
        bench.receivers.answers["a.example"] = 200
        assert await bench.clock.pass_pause() == 30
        assert await bench.receivers.next() == ("a.example", "one")
        await bench.wait_settled()

    run(test)


def test_what_was_being_sent_when_the_server_ended_is_sent_again(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.add("one")
        await bench.receivers.next()
        await bench.restart()
        assert await bench.receivers.next() == ("a.example", "one")

    run(test)


def test_after_the_stop_nothing_is_sent(run: Run) -> None:
    async def test(bench: Bench) -> None:
        await bench.webhooks.stop()
        bench.add("one")
        await bench.check_quiet()
        bench.clock.advance(GIVEN_UP_AFTER_S)
        await bench.check_quiet()
        assert bench.webhooks.pending == 1

    run(test)


def test_a_job_whose_end_was_not_recorded_sends_nothing(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        bench.db.execute("BEGIN")
        bench.add("rolled back")
        bench.db.execute("ROLLBACK")
        await asyncio.sleep(0)
        bench.add("recorded")
        assert await bench.receivers.next() == ("a.example", "recorded")
        await bench.wait_settled()
        assert bench.webhooks.counts == {"delivered": 1}

    run(test)


def test_the_webhook_of_a_job_that_is_removed_is_not_sent_any_more(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 500
        bench.add("removed")
        await bench.log.wait("webhook failed")
        bench.deliveries.forget("removed")
        bench.receivers.answers["a.example"] = 200
        bench.clock.advance(60)
        bench.add("kept")
        await bench.receivers.next()
        assert await bench.receivers.next() == ("a.example", "kept")

    run(test)


def test_on_a_full_disk_a_delivered_message_is_not_sent_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_OUTAGE_PAUSE_S", 0)

    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        remove = bench.deliveries.remove

        def fail(_: Delivery) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(bench.deliveries, "remove", fail)
        bench.add("one")
        await bench.receivers.next()
        await bench.log.wait("cannot be recorded")
        monkeypatch.setattr(bench.deliveries, "remove", remove)
        await bench.wait_settled()
        await bench.check_quiet()

    run(test)
