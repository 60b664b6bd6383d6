"""What a process asks of the kernel for its descendants."""

from __future__ import annotations

import os

import pytest

from upscaled_protocol import processtree


def test_an_emulator_that_refuses_the_calls_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel refuses options that it does not know as qemu refuses these.
    monkeypatch.setattr(processtree, "_PR_SET_CHILD_SUBREAPER", 9999)
    monkeypatch.setattr(processtree, "_PR_SET_PDEATHSIG", 9999)
    processtree.become_subreaper()
    processtree.exit_with_parent(os.getppid())
