"""Starts workers through the fork server, and reports the end of each.

request_spawn ──> fork server ──> {"spawn": number, "pid": pid}, later {"exited": pid, …}
                      │  exits, or stops reporting
                      └──> every worker is lost with it; the next request starts another one
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from upscaled_protocol.log import Logger
from upscaled_supervisor.causes import Cause, cause_of_exit, cause_of_fork_server_exit
from upscaled_supervisor.child import Child
from upscaled_supervisor.forkserver import ForkServer
from upscaled_supervisor.options import Options
from upscaled_supervisor.pipes import Pipes, open_pipes
from upscaled_supervisor.poller import Poller
from upscaled_supervisor.slots import Slot
from upscaled_supervisor.streams import WorkerStreams
from upscaled_supervisor.system import System


class Spawner:
    """Adds each worker that it starts to `children`.

    `handle_exit` is called with a worker that has exited, and the cause; `handle_usage_error` with
    what is wrong with the workers' options.
    """

    def __init__(
        self,
        *,
        options: Options,
        children: dict[int, Child],
        streams: WorkerStreams,
        poller: Poller,
        system: System,
        log: Logger,
        handle_exit: Callable[[Child, Cause], None],
        handle_usage_error: Callable[[str], None],
    ) -> None:
        self._options = options
        self._children = children
        self._streams = streams
        self._poller = poller
        self._system = system
        self._log = log
        self._handle_exit = handle_exit
        self._handle_usage_error = handle_usage_error
        self._fork_server: ForkServer | None = None
        self._next_number = 0
        self._is_closing = False
        self.has_read_options = False  # the workers' options, which are right

    def request_spawn(self, slot: Slot, models: Sequence[str] = ()) -> Child:
        """Ask for a worker that preloads these models; its pid arrives later.

        Raises `OSError` if the machine has no room for it.
        """
        if self._fork_server is None:
            self._fork_server = self._system.start_fork_server(
                self._options.worker_argv, template=self._options.template
            )
            self._poller.watch_reading(self._fork_server.fd, self._read_notices)
        theirs, ours = open_pipes()
        child = Child(self._next_number, slot.number, slot.placement, Pipes(*ours), self._system)
        argv = ["--supervised", *slot.placement.argv, *(f"--preload={name}" for name in models)]
        try:
            self._fork_server.spawn(child.number, argv, slot.placement.env, theirs)
        except BlockingIOError:  # too many requests are waiting
            child.close()
            raise
        except OSError:
            pass  # the fork server is gone, which `_read_notices` handles in a moment
        finally:
            for fd in theirs:
                os.close(fd)
        self._next_number += 1
        self._children[child.number] = child
        self._streams.watch(child)
        return child

    def confirm_pid(self, child: Child, pid: int) -> None:
        """A worker that is ready has named its pid, which may arrive before the fork server's
        notice. Ignored if it is no process of the fork server."""
        server = self._fork_server
        if child.pid is None and server and pid in self._system.child_pids(server.pid):
            child.pid = pid

    def reap(self) -> None:
        """Reap the processes below us that have exited."""
        if self._fork_server is not None:
            self._fork_server.reap()

    def kill_fork_server(self) -> None:
        """Kill the fork server, because it does not report exits."""
        if self._fork_server is not None:
            self._log.log("error", "fork_server_stuck")
            self._system.kill_group(self._fork_server.pid)

    def close(self) -> None:
        """Start no more workers, and do not report the end of the fork server as an error."""
        self._is_closing = True

    def end(self) -> None:
        """End the fork server, and wait until every process below it is gone."""
        self.close()
        if self._fork_server is not None:
            self._end_fork_server()

    def _end_fork_server(self) -> int:
        assert self._fork_server is not None
        fork_server, self._fork_server = self._fork_server, None
        self._poller.forget(fork_server.fd)
        fork_server.close()
        exit_code = fork_server.wait()
        # The kernel has made us the parent of what the fork server left behind.
        self._system.kill_descendants()
        return exit_code

    def _read_notices(self) -> None:
        assert self._fork_server is not None
        try:
            notices = self._fork_server.read()
        except ValueError as error:
            self._log.log("error", "fork_server_line_unreadable", detail=str(error))
            self.kill_fork_server()
            return
        if notices is None:
            self._handle_fork_server_exit()
            return
        for notice in notices:
            self._handle_notice(notice)

    def _handle_notice(self, notice: dict[str, Any]) -> None:
        if "spawn" in notice and notice["spawn"] in self._children:
            child = self._children[notice["spawn"]]
            child.pid = notice.get("pid")
            if child.pid is None:
                self._handle_exit(child, Cause("load_failed", detail=notice["failed"]))
            elif child.end_cause is not None:
                child.kill()
        elif "exited" in notice:
            for child in [one for one in self._children.values() if one.pid == notice["exited"]]:
                self._handle_worker_exit(child, notice["status"])
        elif "usage" in notice:
            self.has_read_options = notice["usage"] is None
            if notice["usage"] is not None:
                self._handle_usage_error(notice["usage"])
        elif notice.get("template") is False and self._options.template:
            self._log.log("warning", "template_unusable", detail=notice.get("detail"))

    def _handle_worker_exit(self, child: Child, status: int) -> None:
        self._streams.read_stderr(child)
        detail = None if child.ready else child.last_printed_line
        cause = child.end_cause or cause_of_exit(status, child.oom_kills, detail)
        self._handle_exit(child, cause)

    def _handle_fork_server_exit(self) -> None:
        """The fork server was killed, and the kernel has killed its workers; or it has exited."""
        exit_code = self._end_fork_server()
        if not self._is_closing:
            self._log.log("error", "fork_server_lost", exit_code=exit_code)
        for child in list(self._children.values()):
            child.kill()
            cause = child.end_cause or cause_of_fork_server_exit(exit_code, child.oom_kills)
            # A job may have taken the memory for which the kernel killed the fork server, so the
            # jobs are charged then. They did not cause any other end of it.
            if cause["reason"] != "oom_kill":
                child.end_cause = cause
            self._handle_exit(child, cause)
