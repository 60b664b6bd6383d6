"""How many threads compute, and that they do not spin while they wait."""

from __future__ import annotations

import os

import pytest

from upscaled_models.threads import computing_threads, settle_waiting


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux only")
def test_a_process_held_to_one_core_computes_with_one_thread() -> None:
    allowed = os.sched_getaffinity(0)
    assert 1 <= computing_threads() <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert computing_threads() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_what_the_operator_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
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
