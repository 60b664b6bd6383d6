"""Whichever process is killed, and whenever: no descendant is left.

Every process of a tree inherits the write end of one pipe, the *tether*, from the test. When the
last of them is gone the read end reports the end of file: no pids, no sleeps, no guesses.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import psutil
import pytest

from upscaled_protocol.processtree import child_pids
from waiting import TIMEOUT_S, wait_until

# A host: passes lines from the test to its daemon, and the daemon's lines to the test.
HOST = """
import os, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         close_fds=False, bufsize=0)
os.write(1, b"%d\\n" % child.pid)
def pass_on():
    while data := os.read(0, 65536):
        child.stdin.write(data)
    child.stdin.close()
threading.Thread(target=pass_on, daemon=True).start()
while data := os.read(child.stdout.fileno(), 65536):
    os.write(1, data)
"""

MOMENTS = ["importing", "loading", "idle", "in a job", "in a silent job", "draining"]

# No time limit ends a process of the tree as long as a test waits for it.
LATER_S = str(10 * TIMEOUT_S)
FAKE = [
    *("-m", "upscaled_supervisor", "--methods", "fake"),
    *("--grace-s", LATER_S, "--cancel-grace-s", LATER_S, "--stall-timeout-s", LATER_S),
]


class Tree:
    """Host, supervisor, fork server, workers and grandchildren, tethered to the test."""

    def __init__(self, argv: list[str]) -> None:
        self._tether, theirs = os.pipe()
        os.set_inheritable(theirs, True)
        self.host = subprocess.Popen(
            [sys.executable, "-c", HOST, sys.executable, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=False,
            bufsize=0,
        )
        os.close(theirs)
        self._reader = self.host.stdout
        self.daemon_pid = int(self._readline())

    def send(self, message: dict[str, Any]) -> None:
        assert self.host.stdin is not None
        self.host.stdin.write(orjson.dumps(message) + b"\n")

    def close_stdin(self) -> None:
        assert self.host.stdin is not None
        self.host.stdin.close()

    def wait_line(self, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        while True:
            line: dict[str, Any] = orjson.loads(self._readline())
            if condition(line):
                return line

    def wait_status(self, message: str) -> dict[str, Any]:
        return self.wait_line(lambda line: line.get("message") == message)

    def assert_gone(self) -> None:
        """Wait until every process of the tree is gone."""
        readable, _, _ = select.select([self._tether], [], [], TIMEOUT_S)
        assert readable, "a descendant is still alive"
        assert os.read(self._tether, 1) == b""

    def close(self) -> None:
        if self.host.poll() is None:
            self.host.kill()
        self.host.wait(TIMEOUT_S)
        for stream in (self.host.stdin, self.host.stdout):
            if stream is not None:
                stream.close()
        os.close(self._tether)

    def _readline(self) -> bytes:
        assert self._reader is not None
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._reader], [], [], TIMEOUT_S)
            assert readable, "the daemon writes nothing"
            byte = self._reader.read(1)
            assert byte, "the daemon is gone"
            line += byte
        return line


StartTree = Callable[..., Tree]


@pytest.fixture
def start_tree() -> Iterator[StartTree]:
    trees: list[Tree] = []

    def start(*argv: str) -> Tree:
        trees.append(Tree(list(argv)))
        return trees[-1]

    yield start
    for tree in trees:
        tree.close()


def fork_server_pid(tree: Tree) -> int:
    """The supervisor's one child, once it has been started."""
    wait_until(lambda: child_pids(tree.daemon_pid), "the fork server")
    return child_pids(tree.daemon_pid)[0]


def worker_pid(tree: Tree) -> int:
    tree.send({"type": "health"})
    report = tree.wait_line(lambda line: line["type"] == "health")
    return int(report["workers"][0]["pid"])


def programs_below(process: psutil.Process) -> list[str]:
    """The programs of its descendants, with "" for a zombie."""
    names = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append("" if child.status() == psutil.STATUS_ZOMBIE else child.name())
    return names


def bring_to(tree: Tree, moment: str) -> None:
    """Wait until the tree is loading, idle, in a job or draining."""
    if moment == "importing":
        tree.wait_status("loading_models")
        return
    job = {"steps": 100_000, "step_s": 0.02, "spawn_sleeper": True, "at_step": 1}
    if moment == "loading":
        job = {"load_s": 1000.0}
    if moment == "in a silent job":
        job |= {"hang": True}
    if moment != "idle":
        tree.send({"job_id": "a", "method": "fake", "config": job})
        tree.wait_line(lambda line: line["type"] == "progress")
    else:
        tree.wait_status("ready")
    if moment == "in a job":  # far enough for the grandchild to be there
        tree.wait_line(lambda line: line.get("done", 0) >= 3)
    if moment == "draining":
        tree.send({"type": "shutdown"})
        tree.wait_status("draining")


@pytest.mark.parametrize(
    ("moment", "template"),
    [
        *((moment, "--template") for moment in MOMENTS),
        *((moment, "--no-template") for moment in ("importing", "loading", "in a job")),
    ],
)
@pytest.mark.parametrize("victim", ["host", "supervisor"])
def test_a_killed_parent_leaves_no_descendant(
    start_tree: StartTree, victim: str, moment: str, template: str
) -> None:
    tree = start_tree(*FAKE, template)
    bring_to(tree, moment)
    os.kill(tree.host.pid if victim == "host" else tree.daemon_pid, signal.SIGKILL)
    if victim == "supervisor":
        tree.close_stdin()
    tree.assert_gone()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_fork_server_loses_no_job_and_leaves_no_descendant(
    start_tree: StartTree, moment: str
) -> None:
    tree = start_tree(*FAKE)
    bring_to(tree, moment)
    os.kill(fork_server_pid(tree), signal.SIGKILL)
    if moment != "draining":
        tree.send({"job_id": "after", "method": "fake", "config": {"steps": 0}})
        tree.wait_line(lambda line: line["type"] == "result" and line["job_id"] == "after")
    os.kill(tree.host.pid, signal.SIGKILL)
    tree.assert_gone()


@pytest.mark.parametrize("moment", ["loading", "idle", "in a job", "draining"])
def test_a_killed_worker_leaves_no_grandchild(start_tree: StartTree, moment: str) -> None:
    tree = start_tree(*FAKE)
    bring_to(tree, moment)
    if moment == "idle":
        tree.send({"job_id": "a", "method": "fake", "config": {"spawn_sleeper": True}})
        tree.wait_line(lambda line: line["type"] == "result")
    os.kill(worker_pid(tree), signal.SIGKILL)
    tree.send({"type": "cancel", "job_id": "a"})
    tree.send({"type": "shutdown"})
    tree.wait_status("stopped")
    tree.close_stdin()
    tree.assert_gone()


def test_a_worker_stuck_in_native_code_ends_with_its_host(start_tree: StartTree) -> None:
    tree = start_tree(*FAKE)
    stuck = {"hang_native": True, "at_step": 1, "steps": 3, "step_s": 0.05}
    tree.send({"job_id": "a", "method": "fake", "config": stuck})
    tree.wait_line(lambda line: line["type"] == "progress")
    os.kill(tree.host.pid, signal.SIGKILL)
    tree.assert_gone()


def test_a_worker_stuck_in_native_code_ends_without_a_supervisor_and_a_fork_server(
    start_tree: StartTree,
) -> None:
    tree = start_tree(*FAKE)
    stuck = {"hang_native": True, "at_step": 1, "steps": 3, "step_s": 0.05}
    tree.send({"job_id": "a", "method": "fake", "config": stuck})
    tree.wait_line(lambda line: line["type"] == "progress")
    fork_server = fork_server_pid(tree)
    os.kill(tree.daemon_pid, signal.SIGSTOP)  # or it would see the fork server's end
    os.kill(fork_server, signal.SIGKILL)
    os.kill(tree.daemon_pid, signal.SIGKILL)
    tree.close_stdin()
    tree.assert_gone()


def test_a_bare_worker_ends_with_its_host(start_tree: StartTree) -> None:
    tree = start_tree("-m", "upscaled_worker", "--methods", "fake")
    bring_to(tree, "loading")
    os.kill(tree.host.pid, signal.SIGKILL)
    tree.assert_gone()


def test_as_the_first_process_of_a_container_it_leaves_no_zombie(start_tree: StartTree) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("a process namespace can only be made by root, on Linux")
    arguments = ", ".join(map(repr, [*unshare, sys.executable, *FAKE]))
    tree = start_tree("-c", f"import os; os.execvp('unshare', [{arguments}])")
    tree.send({"job_id": "a", "method": "fake", "config": {"spawn_sleeper": True}})
    tree.wait_line(lambda line: line["type"] == "result")
    (first,) = psutil.Process(tree.daemon_pid).children()
    (fork_server,) = first.children()
    program = fork_server.name()
    fork_server.kill()
    tree.wait_status("worker_restarted")
    # The first process adopts what the fork server left, because there is no other, and reaps it:
    # there is a fork server, a worker, no sleeper, and no zombie.
    wait_until(lambda: programs_below(first) == [program] * 2, "the end of all the rest")
    tree.send({"type": "shutdown"})
    tree.wait_status("stopped")
    tree.close_stdin()
    tree.assert_gone()


def test_jobs_are_finished_after_the_end_of_input(start_tree: StartTree) -> None:
    tree = start_tree(*FAKE)
    tree.send({"job_id": "a", "method": "fake", "config": {"steps": 5, "step_s": 0.1}})
    tree.wait_line(lambda line: line["type"] == "accepted")
    tree.close_stdin()
    tree.wait_line(lambda line: line["type"] == "result")
    tree.assert_gone()
