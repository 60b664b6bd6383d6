"""The thread that computes, and that threads do not spin while they wait."""

from __future__ import annotations

import os
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread, current_thread

import pytest

from upscaled_models.device.threads import ComputingThread, give_way, settle_waiting
from waiting import TIMEOUT_S


def test_the_operators_own_setting_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    settle_waiting()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    settle_waiting()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    settle_waiting()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")
def test_only_the_thread_that_calls_it_gives_way() -> None:
    policies: list[int] = []

    def work() -> None:
        give_way()
        policies.append(os.sched_getscheduler(0))

    # Another test may have let this thread give way.
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert policies == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_all_tasks_run_in_one_thread() -> None:
    thread = ComputingThread()
    with ThreadPoolExecutor(4) as others:
        names = list(others.map(lambda _: thread.run(lambda: current_thread().name), range(8)))
    assert set(names) == {"compute"}
    # What computes may ask for more.
    assert thread.run(lambda: thread.run(lambda: current_thread().name)) == "compute"


def test_the_caller_gets_the_exception_of_its_task() -> None:
    thread = ComputingThread()
    with pytest.raises(ZeroDivisionError):
        thread.run(lambda: 1 / 0)
    assert thread.run(lambda: 1) == 1


def test_a_finished_task_is_not_kept_in_memory() -> None:
    class Picture:
        pass

    thread = ComputingThread()
    picture = Picture()
    gone = Event()
    weakref.finalize(picture, gone.set)
    thread.run(lambda picture=picture: None)  # type: ignore[misc]
    del picture
    assert gone.wait(TIMEOUT_S)
