"""Job lines are accepted, held or refused by one set of rules, in both daemons."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from upscaled_protocol.admission import REMEMBERED_IDS, Admission
from upscaled_protocol.errors import ErrorCode, JobError


class Job(NamedTuple):
    job_id: str


class Owner:
    """Keeps the accepted jobs, `room` of them at most, and the errors that would be sent."""

    def __init__(self, room: int = 1) -> None:
        self.room = room
        self.accepted: dict[str, Job] = {}
        self.cancelled: list[str] = []
        self.sent: list[dict[str, Any]] = []
        self.cannot_accept: str | None = None
        self.admission = Admission[Job](
            self.accepted,
            has_room=lambda: len(self.accepted) < self.room,
            accept=self._accept,
            send=self.sent.append,
        )

    def offer(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.admission.offer(Job(job_id), 10)

    def end(self, job_id: str) -> None:
        del self.accepted[job_id]
        self.admission.note_ended(job_id)

    def _accept(self, job: Job) -> None:
        if self.cannot_accept == job.job_id:
            raise JobError(ErrorCode.JOURNAL_UNWRITABLE, "the disk is full", job_id=job.job_id)
        self.accepted[job.job_id] = job
        if self.admission.note_accepted(job.job_id):
            self.cancelled.append(job.job_id)
            self.end(job.job_id)


def test_jobs_without_room_are_accepted_later_in_the_order_of_their_lines() -> None:
    owner = Owner(room=1)
    owner.offer("a", "b", "c")
    assert list(owner.accepted) == ["a"]
    owner.end("a")
    owner.admission.admit()
    assert list(owner.accepted) == ["b"]
    owner.end("b")
    owner.offer("d")
    assert not owner.accepted, "d overtook c, which was held"
    owner.admission.admit()
    assert list(owner.accepted) == ["c"]


@pytest.mark.parametrize("room", [0, 1])
def test_an_id_that_is_in_flight_or_held_is_refused(room: int) -> None:
    owner = Owner(room)
    owner.offer("a")
    with pytest.raises(JobError, match="'a' is still in flight") as refusal:
        owner.offer("a")
    assert refusal.value.code is ErrorCode.DUPLICATE_JOB
    owner.admission.refuse(refusal.value)
    assert owner.sent[0]["job_id"] is None
    assert owner.sent[0]["refused_job_id"] == "a"


def test_an_early_cancel_ends_its_job_without_room_for_it() -> None:
    owner = Owner(room=1)
    owner.offer("a", "b")
    owner.admission.note_cancel("c")
    owner.offer("c")
    assert owner.cancelled == ["c"]
    owner.offer("c")  # the cancel was for one job
    assert owner.cancelled == ["c"]


def test_a_cancel_after_its_job_does_not_end_the_next_job_of_that_id() -> None:
    owner = Owner()
    owner.offer("a")
    owner.end("a")
    owner.admission.note_cancel("a")
    owner.offer("a")
    assert not owner.cancelled


def test_a_cancel_after_a_held_job_was_cancelled_does_not_end_the_next_job_of_that_id() -> None:
    owner = Owner(room=0)
    owner.offer("a")
    assert owner.admission.cancel_held("a") == Job("a")
    assert (owner.sent[0]["job_id"], owner.sent[0]["code"]) == ("a", "cancelled")
    assert owner.admission.cancel_held("a") is None
    owner.admission.note_cancel("a")
    owner.room = 1
    owner.offer("a")
    assert list(owner.accepted) == ["a"]


def test_only_the_newest_early_cancels_are_remembered() -> None:
    owner = Owner(room=2)
    for number in range(REMEMBERED_IDS + 1):
        owner.admission.note_cancel(str(number))
    owner.offer("0", "1")
    assert owner.cancelled == ["1"]


def test_a_held_job_whose_id_came_back_from_a_journal_is_refused() -> None:
    owner = Owner(room=2)
    owner.offer("a", "b", "x")
    owner.end("a")
    del owner.accepted["b"]
    owner.accepted["x"] = restored = Job("x")
    owner.admission.admit()
    assert owner.accepted == {"x": restored}
    assert [(one["job_id"], one["refused_job_id"], one["code"]) for one in owner.sent] == [
        (None, "x", ErrorCode.DUPLICATE_JOB)
    ]


def test_a_cancel_is_for_the_job_that_came_back_and_not_for_the_held_one() -> None:
    owner = Owner(room=1)
    owner.offer("a", "x")
    owner.accepted["x"] = Job("x")
    assert owner.admission.cancel_held("x") is None
    assert [(one["job_id"], one["refused_job_id"]) for one in owner.sent] == [(None, "x")]
    assert not owner.admission.is_holding


def test_a_closed_admission_refuses_new_jobs_and_accepts_held_ones() -> None:
    owner = Owner(room=1)
    owner.offer("a", "b")
    owner.admission.close()
    with pytest.raises(JobError, match="going down") as refusal:
        owner.offer("c")
    assert refusal.value.code is ErrorCode.SHUTTING_DOWN
    owner.end("a")
    owner.admission.admit()
    assert list(owner.accepted) == ["b"]


def test_a_paused_admission_holds_every_job_also_a_cancelled_one() -> None:
    owner = Owner(room=5)
    owner.admission.is_paused = True
    owner.admission.note_cancel("a")
    owner.offer("a", "b")
    owner.admission.admit()
    assert not owner.accepted
    assert not owner.cancelled
    owner.admission.is_paused = False
    owner.admission.admit()
    assert owner.cancelled == ["a"]
    assert list(owner.accepted) == ["b"]


def test_a_held_job_that_cannot_be_accepted_is_refused_and_the_next_one_is_accepted() -> None:
    owner = Owner(room=0)
    owner.offer("a", "b")
    owner.room, owner.cannot_accept = 5, "a"
    owner.admission.admit()
    assert list(owner.accepted) == ["b"]
    assert (owner.sent[0]["job_id"], owner.sent[0]["code"]) == ("a", "journal_unwritable")
    assert owner.admission.refused == 1


def test_every_held_job_is_answered_if_there_will_be_no_room() -> None:
    owner = Owner(room=0)
    owner.offer("a", "b")
    owner.admission.refuse_held(ErrorCode.SHUTTING_DOWN, "the daemon is going down")
    assert [error["job_id"] for error in owner.sent] == ["a", "b"]
    assert not owner.admission.is_holding


def test_reading_pauses_at_a_limit_of_bytes() -> None:
    owner = Owner(room=0)
    owner.admission.offer(Job("a"), 20_000_000)
    assert not owner.admission.is_full
    owner.admission.offer(Job("b"), 20_000_000)
    assert owner.admission.is_full
    owner.admission.cancel_held("a")
    assert not owner.admission.is_full
