"""Machines and Redis that are killed and frozen: no job is lost, and each has one result.

The short forms run with all tests; the long ones disturb as often as a bad week does.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from celery import Celery

from queue_fleet import Fleet, Machine, RabbitServer, needs_redis, running_fleet
from waiting import wait_until

pytestmark = [needs_redis, pytest.mark.timeout(900)]

LEASE_S = 1.5
OPTIONS = ("--lease-s", str(LEASE_S), "--max-deliveries", "20")
# RabbitMQ gives the jobs of a lost connection back at once. The lease is only the watchdog's time
# there, and a worker needs some seconds to connect again.
ON_RABBITMQ = ("--lease-s", "15", "--max-deliveries", "20")
ENDLESS_S = 600.0


def start_machines(fleet: Fleet, count: int, options: Sequence[str] = OPTIONS) -> list[Machine]:
    machines = [fleet.start_machine(*options) for _ in range(count)]
    return [machine.wait_ready() for machine in machines]


def disturb(
    fleet: Fleet,
    ids: list[str],
    *,
    machine_kills: int,
    broker_kills: int,
    rabbit: RabbitServer | None = None,
) -> int:
    """Kill machines that run something, each replaced by a new one, and the broker in between,
    spread over the jobs; how many jobs were started again. rabbit: the broker, if it is not the
    fleet's Redis."""
    options = ON_RABBITMQ if rabbit else OPTIONS
    kills = ["machine"] * machine_kills + ["server"] * broker_kills
    random.Random(7).shuffle(kills)
    alive = fleet.disturb(len(ids), kills, rabbit or fleet.redis, options, seed=7)
    fleet.check_each_has_one_result(ids)
    assert all(machine.process.poll() is None for machine in alive)
    return sum(fleet.starts_of(job_id) > 1 for job_id in ids)


def test_killed_machines_and_a_killed_redis_lose_and_double_no_job(fleet: Fleet) -> None:
    start_machines(fleet, 3)
    ids = [f"job-{number}" for number in range(60)]
    fleet.submit(*(fleet.job(job_id, step_s=0.15) for job_id in ids))
    disturb(fleet, ids, machine_kills=2, broker_kills=1)


def test_a_machine_that_was_frozen_past_its_lease_adds_no_second_end(fleet: Fleet) -> None:
    start_machines(fleet, 2)
    fleet.submit(fleet.job("frozen", steps=2, step_s=ENDLESS_S))
    frozen = fleet.machine_of("frozen")
    frozen.signal_all(signal.SIGSTOP)
    wait_until(lambda: fleet.starts_of("frozen") >= 2, "the start on the other machine")
    frozen.signal_all(signal.SIGCONT)
    assert fleet.records.cancel("frozen")
    for machine in fleet.machines:
        wait_until(partial(machine.has_logged, "job_ended"), "its end on each machine")
    assert [event["job_id"] for event in fleet.ends()] == ["frozen"]
    # Neither the queue nor a machine is in the way of the next jobs.
    ids = [f"next-{number}" for number in range(4)]
    fleet.submit(*(fleet.job(job_id) for job_id in ids))
    fleet.check_each_has_one_result(ids)


def test_a_job_that_takes_its_machines_down_is_poisoned_and_harms_no_other(fleet: Fleet) -> None:
    options = ("--lease-s", str(LEASE_S), "--max-deliveries", "1")
    fleet.start_machine(*options).wait_ready()
    fleet.submit(fleet.job("poison", steps=2, step_s=ENDLESS_S))
    fleet.machine_of("poison").kill()
    fleet.start_machine(*options)
    fleet.submit(fleet.job("innocent"))
    end = fleet.end_of("poison")
    assert (end["code"], end["cause"]["reason"]) == ("poisoned", "supervisor_killed")
    fleet.check_each_has_one_result(["innocent"])


def test_a_daemon_that_is_lost_is_started_again_within_the_delivery(fleet: Fleet) -> None:
    machine = fleet.start_machine(*OPTIONS).wait_ready()
    fleet.submit(fleet.job("kept", steps=6000, step_s=0.1))
    fleet.wait_progress("kept")
    machine.daemon.kill()
    wait_until(lambda: fleet.starts_of("kept") == 2, "the second start")
    wait_until(lambda: machine.has_logged("daemon_lost"), "the log's line")
    assert fleet.records.cancel("kept")
    assert fleet.end_of("kept")["code"] == "cancelled"
    assert machine.process.poll() is None


def test_a_machine_without_a_daemon_leaves_with_its_own_status(fleet: Fleet) -> None:
    machine = fleet.start_machine(*OPTIONS, daemon=["--start-timeout-s", "nonsense"])
    assert machine.wait_exit() == 2
    assert "--start-timeout-s" in "".join(machine.log)


def test_a_machine_that_is_given_nothing_although_jobs_wait_leaves_to_be_started_anew(
    tmp_path: Path,
) -> None:
    with running_fleet("redis", tmp_path) as fleet:
        machine = fleet.start_machine("--lease-s", "0.5").wait_ready()
        control = Celery(broker=fleet.url, set_as_current=False).control
        wait_until(lambda: control.cancel_consumer("fake", reply=True), "the worker's answer")
        fleet.submit(fleet.job("left"))
        assert machine.wait_exit() == 75
        assert machine.has_logged("nothing_is_delivered")
        assert fleet.records.end_of("left") is None


# --- the long forms -------------------------------------------------------------------------------


@pytest.mark.long
def test_long_fifty_killed_machines_lose_and_double_no_job(fleet: Fleet) -> None:
    start_machines(fleet, 3)
    ids = [f"job-{number}" for number in range(1000)]
    fleet.submit(*(fleet.job(job_id, step_s=0.15) for job_id in ids))
    assert disturb(fleet, ids, machine_kills=50, broker_kills=0) > 0


@pytest.mark.long
def test_long_redis_that_is_killed_again_and_again_loses_and_doubles_no_job(fleet: Fleet) -> None:
    start_machines(fleet, 3)
    ids = [f"job-{number}" for number in range(400)]
    fleet.submit(*(fleet.job(job_id, step_s=0.15) for job_id in ids))
    disturb(fleet, ids, machine_kills=3, broker_kills=10)


@pytest.mark.long
def test_long_frozen_machines_add_no_second_result(fleet: Fleet) -> None:
    machines = start_machines(fleet, 3)
    ids = [f"job-{number}" for number in range(400)]
    fleet.submit(*(fleet.job(job_id, step_s=0.3) for job_id in ids))
    taken_over = 0
    for number in range(10):
        wait_until(partial(fleet.has_ends, 30 * number), "more ends")
        frozen = machines[number % 3]
        wait_until(partial(runs_of, fleet, frozen), "a job that it runs")
        frozen.signal_all(signal.SIGSTOP)
        held = runs_of(fleet, frozen)
        for job_id, starts in held.items():
            wait_until(partial(goes_on, fleet, job_id, starts), f"{job_id} elsewhere")
        taken_over += sum(fleet.starts_of(job_id) > starts for job_id, starts in held.items())
        frozen.signal_all(signal.SIGCONT)
    fleet.check_each_has_one_result(ids)
    assert taken_over > 0
    assert all(machine.process.poll() is None for machine in machines)


def runs_of(fleet: Fleet, machine: Machine) -> dict[str, int]:
    """The jobs without an end that this machine was the last to start, and their starts."""
    running = cast(list[str], fleet.records.redis.zrange("upscaled:running:fake", 0, -1))
    return {
        job_id: fleet.starts_of(job_id)
        for job_id in running
        if fleet.records.redis.hget(f"upscaled:job:{job_id}", "machine") == machine.name
        and fleet.records.end_of(job_id) is None
    }


def goes_on(fleet: Fleet, job_id: str, starts: int) -> bool:
    """It was started once more, or a machine that was frozen before has ended it."""
    return fleet.starts_of(job_id) > starts or fleet.records.end_of(job_id) is not None


@pytest.mark.long
def test_long_a_killed_machines_job_starts_elsewhere_within_two_leases(fleet: Fleet) -> None:
    lease_s = 6.0
    options = ("--lease-s", str(lease_s), "--max-deliveries", "20")
    for machine in [fleet.start_machine(*options) for _ in range(2)]:
        machine.wait_ready()
    fleet.submit(fleet.job("moved", steps=2, step_s=ENDLESS_S))
    fleet.machine_of("moved").kill()
    killed = time.monotonic()
    wait_until(lambda: fleet.starts_of("moved") == 2, "the start elsewhere")
    assert time.monotonic() - killed <= 2 * lease_s


@pytest.mark.long
def test_long_four_machines_do_nearly_four_times_the_work_of_one(fleet: Fleet) -> None:
    took_s = []
    for machines in (1, 4):
        count = 10 * machines
        ids = [f"of-{machines}-{number}" for number in range(count)]
        start_machines(fleet, machines - len(fleet.machines))
        fleet.submit(fleet.job(f"warm-{machines}"))
        fleet.end_of(f"warm-{machines}")
        began = time.monotonic()
        fleet.submit(*(fleet.job(job_id, step_s=1.0) for job_id in ids))
        fleet.check_each_has_one_result(ids)
        took_s.append(time.monotonic() - began)
    # Ten jobs per machine each time.
    assert took_s[0] / took_s[1] >= 0.85


@pytest.mark.long
@pytest.mark.parametrize(("machine_kills", "broker_kills"), [(15, 0), (3, 10)])
def test_long_killed_machines_and_a_killed_rabbitmq_lose_and_double_no_job(
    rabbit: RabbitServer, tmp_path: Path, machine_kills: int, broker_kills: int
) -> None:
    with running_fleet("redis", tmp_path) as fleet:
        fleet.use_rabbitmq(rabbit.url)
        start_machines(fleet, 3, ON_RABBITMQ)
        ids = [f"job-{number}" for number in range(400)]
        fleet.submit(*(fleet.job(job_id, step_s=0.15) for job_id in ids))
        disturb(fleet, ids, machine_kills=machine_kills, broker_kills=broker_kills, rabbit=rabbit)
