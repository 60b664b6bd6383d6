"""The cause of a worker's exit, read from its status."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest

from upscaled_supervisor.causes import Cause, cause_of_exit, cause_of_fork_server_exit


def wait_status(code: str) -> int:
    """The raw wait status of a real process that ran this."""
    import os

    process = subprocess.Popen([sys.executable, "-c", code])
    _, status = os.waitpid(process.pid, 0)
    process.returncode = 0  # reaped here
    return status


def test_an_exit_code_is_named() -> None:
    cause = cause_of_exit(wait_status("raise SystemExit(7)"), 0, "last line")
    assert cause == {"reason": "exit", "exit_code": 7, "detail": "last line"}
    assert cause.sentence() == "the worker exited with code 7: last line"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_a_signal_is_named(name: str) -> None:
    number = int(signal.Signals[name])
    cause = cause_of_exit(wait_status(f"import os; os.kill(os.getpid(), {number})"), 0, None)
    assert cause == {"reason": "signal", "signal": name}


def test_a_missing_instruction_is_named() -> None:
    sentence = cause_of_fork_server_exit(-signal.SIGILL, 0).sentence()
    assert "SIGILL" in sentence
    assert "SSE4.2" in sentence


def test_a_kill_is_the_kernels_if_its_counter_rose() -> None:
    killed = wait_status("import os; os.kill(os.getpid(), 9)")
    assert cause_of_exit(killed, 1, None) == {"reason": "oom_kill", "signal": "SIGKILL"}
    crashed = wait_status("import os; os.kill(os.getpid(), 11)")
    assert cause_of_exit(crashed, 1, None)["reason"] == "signal"


@pytest.mark.parametrize(
    "reason",
    [
        "stall",
        "deadline",
        "cancel",
        "memory",
        "age",
        "job_count",
        "reload",
        "load_failed",
        "oom_kill",
    ],
)
def test_every_cause_has_a_sentence(reason: str) -> None:
    assert Cause(reason).sentence().startswith(("the ", "a "))


@pytest.mark.parametrize(
    ("exit_code", "limit", "advice"),
    [
        (1, resource.RLIMIT_AS, "ulimit -v"),
        (-signal.SIGSEGV, resource.RLIMIT_AS, "ulimit -v"),
        (-signal.SIGKILL, resource.RLIMIT_CPU, "ulimit -t"),
        (-signal.SIGXCPU, resource.RLIMIT_CPU, "ulimit -t"),
    ],
)
def test_an_end_that_a_limit_may_explain_names_it(
    monkeypatch: pytest.MonkeyPatch, exit_code: int, limit: int, advice: str
) -> None:
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
    assert "ulimit" not in cause_of_fork_server_exit(exit_code, 0).sentence()
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (2**30, 2**30) if kind == limit else unlimited
    )
    assert advice in cause_of_fork_server_exit(exit_code, 0).sentence()
