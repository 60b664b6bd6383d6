"""Why a worker has exited or was replaced."""

from __future__ import annotations

import os
import signal
from typing import Any

from upscaled_protocol.processtree import EXIT_NO_ROOM
from upscaled_supervisor.limits import killing_limit, memory_limit, with_limit

_SENTENCES = {
    "exit": "the worker exited with code {exit_code}",
    "signal": "the worker was ended by {signal}",
    "oom_kill": "the kernel killed the worker because memory ran out",
    "stall": "the worker made no progress",
    "deadline": "the worker did not stop at the job's deadline",
    "cancel": "the worker did not stop when the job was cancelled",
    "memory": "the worker grew past its memory limit",
    "age": "the worker reached its maximum age",
    "job_count": "the worker had done its maximum number of jobs",
    "reload": "a rolling restart was requested",
    "load_failed": "the worker did not get ready",
    "protocol_violation": "the worker broke the protocol",
    "supervisor_killed": "the supervisor was killed",
}


_NO_INSTRUCTION = (
    "a library needs an instruction that this processor does not have (NumPy needs SSE4.2): in a "
    "virtual machine, choose the host's type of processor"
)


class Cause(dict[str, Any]):
    """The `cause` of a message: `reason`, and `exit_code`, `signal`, `detail` if known."""

    def __init__(self, reason: str, **fields: Any) -> None:
        super().__init__(reason=reason)
        if reason == "load_failed" and fields.get("detail"):
            fields["detail"] = with_limit(fields["detail"])
        self.update((name, value) for name, value in fields.items() if value is not None)

    def sentence(self) -> str:
        """The cause as a sentence."""
        text = _SENTENCES[self["reason"]].format_map(self)
        return f"{text}: {self['detail']}" if "detail" in self else text


def cause_of_exit(status: int, oom_kills: int, last_line: str | None) -> Cause:
    """Read the status that `os.waitpid` gives.

    oom_kills: the kernel's OOM kills since the worker was started.
    last_line: the last line that the worker printed.
    """
    if os.WIFSIGNALED(status):
        return _cause_of_signal(os.WTERMSIG(status), oom_kills, last_line)
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code == EXIT_NO_ROOM:
        return Cause("load_failed", detail=last_line)
    return Cause("exit", exit_code=exit_code, detail=last_line)


def cause_of_fork_server_exit(exit_code: int, oom_kills: int) -> Cause:
    """Why a fork server's worker is gone: it was killed (a negative number) or exited.

    oom_kills: the kernel's OOM kills since the worker was started.
    """
    if exit_code > 0:
        detail = _joined("its parent process failed, and stderr says why", memory_limit())
        return Cause("exit", exit_code=exit_code, detail=detail)
    signum = -exit_code or signal.SIGKILL
    return _cause_of_signal(signum, oom_kills, "its parent process was killed")


def _cause_of_signal(signum: int, oom_kills: int, detail: str | None) -> Cause:
    # The kernel does not mark the process. SIGKILL and its counter together show it.
    if signum == signal.SIGKILL and oom_kills > 0:
        return Cause("oom_kill", signal="SIGKILL")
    advice = _NO_INSTRUCTION if signum == signal.SIGILL else killing_limit(signum)
    detail = _joined(detail, advice)
    return Cause("signal", signal=_signal_name(signum), detail=detail)


def _joined(*details: str | None) -> str | None:
    return "; ".join(one for one in details if one is not None) or None


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
