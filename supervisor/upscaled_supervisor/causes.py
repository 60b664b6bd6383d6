"""Why workers go away."""

from __future__ import annotations

import os
import signal
from typing import Any

from upscaled_protocol.processtree import EXIT_NO_ROOM
from upscaled_supervisor.limits import killing_limit, memory_limit, with_limit

_SENTENCES = {
    "exit": "the worker left with exit code {exit_code}",
    "signal": "the worker was ended by {signal}",
    "oom_kill": "the kernel ended the worker, for memory ran out",
    "stall": "the worker made no progress",
    "deadline": "the worker did not stop at the job's deadline",
    "cancel": "the worker did not stop when the job was cancelled",
    "memory": "the worker had grown past its memory limit",
    "age": "the worker had reached its age",
    "job_count": "the worker had done its number of jobs",
    "reload": "a rolling restart was asked for",
    "load_failed": "the worker did not get ready",
    "protocol_violation": "the worker did not keep to the protocol",
    "supervisor_killed": "the supervisor was killed",
}


class Cause(dict[str, Any]):
    """A wire-ready object: `reason`, and `exit_code`, `signal`, `detail` where known."""

    def __init__(self, reason: str, **fields: Any) -> None:
        super().__init__(reason=reason)
        if reason == "load_failed" and fields.get("detail"):
            fields["detail"] = with_limit(fields["detail"])
        self.update((name, value) for name, value in fields.items() if value is not None)

    def sentence(self) -> str:
        """For people."""
        text = _SENTENCES[self["reason"]].format_map(self)
        return f"{text}: {self['detail']}" if "detail" in self else text


def cause_of_exit(status: int, oom_kills: int, last_words: str | None) -> Cause:
    """Read a wait status. `oom_kills`: kernel OOM kills counted since the worker was started."""
    if os.WIFSIGNALED(status):
        signum = os.WTERMSIG(status)
        # The kernel leaves no note with the process itself; its counter and the signal together
        # say it.
        if signum == signal.SIGKILL and oom_kills > 0:
            return Cause("oom_kill", signal="SIGKILL")
        return _cause_of_signal(signum, last_words)
    exit_code = os.waitstatus_to_exitcode(status)
    if exit_code == EXIT_NO_ROOM:
        return Cause("load_failed", detail=last_words)
    return Cause("exit", exit_code=exit_code, detail=last_words)


def cause_of_fork_server_exit(exit_code: int) -> Cause:
    """Why the workers of a fork server are gone: it was killed (a negative number), or it left."""
    if exit_code > 0:  # and so will the next one
        detail = _joined("its parent process failed, and stderr says why", memory_limit())
        return Cause("exit", exit_code=exit_code, detail=detail)
    return _cause_of_signal(-exit_code or signal.SIGKILL, "its parent process was killed")


def _cause_of_signal(signum: int, detail: str | None) -> Cause:
    detail = _joined(detail, killing_limit(signum))
    return Cause("signal", signal=_signal_name(signum), detail=detail)


def _joined(*details: str | None) -> str | None:
    return "; ".join(one for one in details if one is not None) or None


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
