"""Webhooks on a clock of the test: the order of receivers, and what a silent one cannot delay."""

from __future__ import annotations

from collections import Counter

import pytest

from webhook_bench import Bench, Run


def test_a_receiver_gets_two_messages_at_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(4):
            bench.add(str(number))
        first = await bench.receivers.next()
        await bench.receivers.next()
        await bench.check_quiet()
        bench.receivers.waiting[first[1]].set_result(200)
        assert await bench.receivers.next() == ("a.example", "2")

    run(test)


def test_a_silent_receiver_delays_no_other_host_and_no_other_owner(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(50):
            bench.add(f"dead {number}")
        await bench.receivers.next()
        await bench.receivers.next()
        bench.add("other host", "https://b.example/")
        bench.add("other port", "https://a.example:8443/")
        bench.add("other owner", owner="you")
        found = {(await bench.receivers.next())[1] for _ in range(3)}
        assert found == {"other host", "other port", "other owner"}

    run(test)


def test_many_silent_receivers_leave_places_for_those_that_answer(run: Run) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["good.example"] = 200
        bench.add("good 1", "https://good.example/")
        await bench.receivers.next()
        await bench.wait_settled()
        for number in range(100):
            bench.add(f"dead {number}", f"https://dead-{number}.example/")
        sent = Counter([(await bench.receivers.next())[0][:4] for _ in range(8)])
        assert sent == {"dead": 8}
        await bench.check_quiet()
        for number in range(2, 20):
            bench.add(f"good {number}", "https://good.example/")
            assert await bench.receivers.next() == ("good.example", f"good {number}")

    run(test)


def test_sixteen_messages_are_sent_at_once(run: Run) -> None:
    async def test(bench: Bench) -> None:
        hosts = [f"{number}.example" for number in range(10)]
        bench.receivers.answers = dict.fromkeys(hosts, 200)
        for host in hosts:
            bench.add(f"first {host}", f"https://{host}/")
            await bench.receivers.next()
        await bench.wait_settled()
        bench.receivers.answers = {}
        for number in range(3):
            for host in hosts:
                bench.add(f"{number} {host}", f"https://{host}/")
        for _ in range(16):
            await bench.receivers.next()
        await bench.check_quiet()

    run(test)


@pytest.mark.parametrize(("status", "seconds"), [(500, 0), (200, 5)])
def test_a_receiver_that_fails_or_is_late_loses_its_privilege(
    run: Run, status: int, seconds: float
) -> None:
    async def test(bench: Bench) -> None:
        bench.receivers.answers["a.example"] = 200
        bench.add("good")
        await bench.receivers.next()
        await bench.wait_settled()
        del bench.receivers.answers["a.example"]
        bench.add("bad")
        await bench.receivers.next()
        bench.clock.advance(seconds)
        bench.receivers.waiting["bad"].set_result(status)
        await bench.recorded(2)
        for number in range(8):
            bench.add(f"dead {number}", f"https://dead-{number}.example/")
            await bench.receivers.next()
        bench.add("next")
        await bench.check_quiet()
        bench.receivers.waiting["dead 0"].set_result(500)
        assert await bench.receivers.next() == ("a.example", "next")

    run(test)


def test_receivers_take_turns(run: Run) -> None:
    async def test(bench: Bench) -> None:
        for number in range(8):
            bench.add(f"first {number}", f"https://{number}.example/")
            await bench.receivers.next()
        for number in range(20):
            bench.add(f"more {number}", "https://0.example/")
        bench.add("new", "https://new.example/")
        await bench.check_quiet()
        bench.receivers.waiting["first 0"].set_result(500)
        assert await bench.receivers.next() == ("0.example", "more 0")
        bench.receivers.waiting["more 0"].set_result(500)
        assert await bench.receivers.next() == ("new.example", "new")

    run(test)
