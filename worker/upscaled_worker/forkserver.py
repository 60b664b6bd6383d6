"""The fork server: the parent of a supervisor's workers.

    supervisor ── control socket ──> fork server ── fork ──> worker 0, worker 1, …
         └────────────── a pair of pipes to each worker ─────────┘

It has imported every heavy library and has no thread and no device context. So a forked worker is
ready after the load of its model, without an import. With `--no-template` the fork server imports
nothing and starts a new interpreter for each worker.

It also ends the workers. If the supervisor exits for any reason, the control socket closes; then
the fork server kills all its descendants, whose parent it becomes as a subreaper. If the fork
server itself is killed, the kernel kills its workers, and the supervisor kills their children.

The control socket carries JSON lines. In: `{"spawn": N, "argv": [...], "env": {...}}` with the
worker's three stdio descriptors. Out: first `{"usage": null}`, or `{"usage": "fault"}` if the
workers' options are wrong; `{"template": true|false, "detail": "reason"}` once after the imports;
`{"spawn": N, "pid": P}` or `{"spawn": N, "failed": "reason"}`; `{"exited": P, "status": S}` (as
`os.waitpid` returns it).
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from upscaled_protocol.lines import LineSplitter, decode_line, encode_line
from upscaled_protocol.processtree import (
    become_subreaper,
    child_pids,
    exit_with_parent,
    from_existing_folder,
    kill_descendants,
)
from upscaled_protocol.stdio import claim_stdio

_MAX_MESSAGE_BYTES = 64 * 1024
_STDIO_FDS = 3


class ForkServer:
    """Starts the workers that the supervisor requests, and reports the exit of each."""

    def __init__(self, control: socket.socket, worker_argv: list[str], *, template: bool) -> None:
        self._control = control
        self._worker_argv = worker_argv
        self._template = template
        self._fault: str | None = None  # the reason why it cannot fork
        self._lines = LineSplitter()
        self._pid = os.getpid()
        self._workers: set[int] = set()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def set_up(self) -> None:
        """Import the libraries of the workers, unless each is a new interpreter."""
        from upscaled_worker.__main__ import WrongUsageError, read_options

        fault = None
        try:
            options = read_options(self._worker_argv)
        except WrongUsageError as error:
            fault = error.text
            raise
        finally:
            # An exit status alone is not clear: a library may exit with any status in its import.
            with contextlib.suppress(OSError):  # the supervisor is gone
                self._send(usage=fault)
        if self._template:
            with from_existing_folder():
                self._fault = _preimport(options.methods)
            # A fork does not copy the threads of a library, and their locks may stay taken.
            if self._fault is None and not _is_single_threaded():
                self._fault = "a library has a thread"
            self._template = self._fault is None

    def serve(self) -> None:
        """Answer the supervisor until it is gone. Then kill every descendant."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # From here on the control socket shows that the supervisor is gone. The signal of
        # `exit_with_parent` would only interrupt the killing.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        try:
            self._send(template=self._template, detail=self._fault)
            while True:
                ready = dict(poll.poll())
                if self._wake_read in ready:
                    os.read(self._wake_read, 4096)
                    self._reap()
                if self._control.fileno() in ready and not self._receive():
                    break
        except OSError:
            pass  # the supervisor is gone
        finally:
            kill_descendants()

    def _receive(self) -> bool:
        """Handle the supervisor's requests. False if it is gone."""
        data, fds, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE_BYTES, _STDIO_FDS)
        for fd in fds:
            os.set_inheritable(fd, False)  # a worker has them as its stdio already
        for line in self._lines.feed(data):
            if line is not None:
                request = decode_line(line)
                try:
                    pid = self._spawn(request, fds)
                except OSError as error:  # the machine has no room for one more process
                    self._send(spawn=request["spawn"], failed=str(error))
                else:
                    self._workers.add(pid)
                    self._send(spawn=request["spawn"], pid=pid)
        for fd in fds:
            os.close(fd)
        return bool(data)

    def _spawn(self, request: dict[str, Any], fds: list[int]) -> int:
        if len(fds) < _STDIO_FDS:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        argv = [*self._worker_argv, *request["argv"], "--parent-pid", str(self._pid)]
        if not self._template:
            process = subprocess.Popen(
                [sys.executable, "-P", "-u", "-m", "upscaled_worker", *argv],
                stdin=fds[0],
                stdout=fds[1],
                stderr=fds[2],
                env=os.environ | request["env"],
                start_new_session=True,
                close_fds=False,  # as in a fork; the fork server's own ones are close-on-exec
            )
            process.returncode = 0  # `_reap` collects it
            return process.pid
        pid = os.fork()
        if pid == 0:
            self._become_worker(argv, request["env"], fds)
        return pid

    def _become_worker(self, argv: list[str], env: dict[str, str], fds: list[int]) -> NoReturn:
        """In the forked child: close the fork server's descriptors and run a worker."""
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(name, signal.SIG_DFL)
            for number, fd in enumerate(fds):
                os.dup2(fd, number)
            for fd in (*fds, self._wake_read, self._wake_write):
                os.close(fd)
            self._control.close()
            os.environ.update(env)
            from upscaled_worker.__main__ import main

            status = main(argv, wire=claim_stdio())
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
        except BaseException:  # noqa: BLE001 - the child must not return into the fork server's loop
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._workers:
                self._workers.remove(pid)
                self._send(exited=pid, status=status)
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill the children of workers that have exited: the fork server is their parent now."""
        for pid in child_pids(self._pid):
            if pid not in self._workers:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)

    def _send(self, **message: Any) -> None:
        self._control.sendall(encode_line(message))


def _preimport(methods: tuple[str, ...]) -> str | None:
    """Import the libraries of the engines. Returns the reason if no worker can be forked."""
    import upscaled_worker.loop  # noqa: F401 - for the workers
    from upscaled_models.registry import engine_class

    fault = None
    for method in methods:
        try:
            engine_class(method).preimport()
        except ModuleNotFoundError as error:  # not installed: the worker's engine reports it
            sys.stderr.write(f"upscaled: cannot pre-import the {method} engine: {error}\n")
        except Exception as error:  # noqa: BLE001 - whatever a library raises
            # It is partly imported, and in this process it cannot be imported again.
            fault = f"cannot pre-import the {method} engine: {error}"
            sys.stderr.write(f"upscaled: {fault}\n")
    # These objects are never freed. A collection would write to them, and so copy shared pages.
    gc.collect()
    gc.freeze()
    return fault


def _is_single_threaded() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1  # noqa: PTH208
    except OSError:
        return threading.active_count() == 1


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one supervisor. Arguments: those of the fork server, then those of every worker."""
    options = argparse.ArgumentParser(prog="python -m upscaled_worker.forkserver")
    options.add_argument("--control-fd", type=int, required=True)
    options.add_argument("--parent-pid", type=int, required=True)
    options.add_argument("--no-template", action="store_true")
    known, worker_argv = options.parse_known_args(argv)
    # During the imports nothing reads the control socket, so the kernel's signal must end this.
    exit_with_parent(known.parent_pid, signal.SIGTERM)
    become_subreaper()
    control = socket.socket(fileno=known.control_fd)
    control.set_inheritable(False)
    fork_server = ForkServer(control, worker_argv, template=not known.no_template)
    fork_server.set_up()
    fork_server.serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
