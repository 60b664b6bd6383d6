"""Workers and fork servers that misbehave: no job is charged for it twice."""

from __future__ import annotations

import fcntl
import os
import resource
import shutil
import signal
import sys
import termios
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from upscaled_protocol.lineage import child_pids
from waiting import wait_until
from wires import stop, wire, write_as_worker

if TYPE_CHECKING:
    from tests.conftest import Daemon, Line, StartDaemon

REPOSITORY = Path(__file__).parents[2]
WEIGHTS = REPOSITORY / "models" / "weights"


def fork_server_pid(daemon: Daemon) -> int:
    (pid,) = child_pids(daemon.pid)
    return pid


def worker_pid(daemon: Daemon, slot: int = 0) -> int:
    report = daemon.wait_health(lambda one: one["workers"][slot]["state"] in ("ready", "busy"))
    return int(report["workers"][slot]["pid"])


def is_held(daemon: Daemon, job_id: str) -> Line:
    """Once the worker has the job, which may be before it says anything of it."""
    return daemon.wait_health(lambda one: job_id in one["workers"][0].get("jobs", ()))


def wait_until_replaced(daemon: Daemon, pid: int) -> None:
    daemon.wait_health(lambda one: one["workers"][0].get("pid") != pid)


def unread_bytes(pipe: int) -> int:
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)


@pytest.mark.parametrize(
    "garbage",
    [
        b"Segmentation fault\n",
        b"\0\xff\n",
        b"[1]\n",
        b"{}\n",
        b'{"type":"riddle"}\n',
        b'{"type":"status"}\n',
        b'{"type":"status","message":"ready"}\n',
        b'{"type":"progress","job_id":"a"}\n',
        b'{"type":"result"}\n',
    ],
)
def test_a_worker_that_writes_garbage_is_replaced(
    start_supervisor: StartDaemon, garbage: bytes
) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True, only_on_attempt=1)
    is_held(daemon, "a")
    write_as_worker(worker_pid(daemon), garbage)
    assert daemon.wait_terminal("a")["attempt"] == 2
    assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "protocol_violation"


def test_a_job_whose_worker_always_writes_garbage_is_poison(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True)
    for _ in range(2):
        is_held(daemon, "a")
        pid = worker_pid(daemon)
        write_as_worker(pid, b"garbage\n")
        wait_until_replaced(daemon, pid)
    error = daemon.wait_terminal("a")
    assert error["code"] == "poisoned"
    assert error["cause"]["reason"] == "protocol_violation"


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"result","job_id":"nobody\'s","status":"completed"}\n',
        b'{"type":"result","job_id":"done","status":"completed"}\n',
        b'{"type":"error","job_id":null,"error":"?","code":"internal","retryable":false}\n',
    ],
)
def test_an_end_of_a_job_that_a_worker_does_not_have_is_passed_over(
    start_supervisor: StartDaemon, line: bytes
) -> None:
    daemon = start_supervisor()
    daemon.job("done")
    daemon.wait_terminal("done")
    daemon.job("a", steps=100_000, step_s=0.01)
    daemon.wait_progress("a")
    write_as_worker(worker_pid(daemon), line)
    daemon.wait_stderr(b"worker_line_unexpected")
    daemon.send({"type": "cancel", "job_id": "a"})
    end = daemon.wait_terminal("a")
    assert (end["code"], end["attempt"]) == ("cancelled", 1)
    assert len(daemon.terminals()) == 2


def test_a_worker_told_to_leave_by_somebody_else_costs_no_job(
    start_supervisor: StartDaemon,
) -> None:
    """As systemd does, which sends SIGTERM to every process of a service."""
    daemon = start_supervisor()
    daemon.job("long", steps=100, step_s=0.01)
    daemon.wait_progress("long")
    os.kill(worker_pid(daemon), signal.SIGTERM)
    for number in range(20):
        daemon.job(str(number))
    for name in ("long", *map(str, range(20))):
        end = daemon.wait_terminal(name)
        assert (end["type"], end.get("attempt")) == ("result", 1)
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause == {"reason": "signal", "signal": "SIGTERM"}
    assert daemon.ask_health()["workers"][0]["restarts"] == 1


def test_a_worker_that_leaves_without_having_read_its_job_costs_it_no_attempt(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    stop(pid)
    daemon.job("a")
    is_held(daemon, "a")
    draining = b'{"type":"status","message":"draining","detail":"SIGTERM"}\n'
    write_as_worker(pid, draining + b'{"type":"status","message":"stopped"}\n')
    os.kill(pid, signal.SIGKILL)
    end = daemon.wait_terminal("a")
    assert (end["type"], end.get("attempt")) == ("result", 1)
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause == {"reason": "signal", "signal": "SIGTERM"}


WAITS_AT_THE_DOOR = """
import sys, time
from pathlib import Path

door = Path(__file__).with_name("closed")
while "upscaled_worker" in sys.orig_argv and door.exists():
    time.sleep(0.01)
"""


def test_a_worker_that_dies_before_its_successor_is_ready_has_one_successor(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WAITS_AT_THE_DOOR)
    daemon = start_supervisor("--no-template", env={"PYTHONPATH": str(tmp_path)})
    old = worker_pid(daemon)
    door = tmp_path / "closed"
    door.touch()
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: len(child_pids(fork_server_pid(daemon))) == 2, "the successor")
    os.kill(old, signal.SIGKILL)
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] == 1)
    door.unlink()
    daemon.wait_status("worker_restarted")
    daemon.job("a")
    daemon.wait_terminal("a")
    assert child_pids(fork_server_pid(daemon)) == [worker_pid(daemon)]
    assert daemon.ask_health()["workers"][0]["restarts"] == 1


def test_a_job_kept_for_a_worker_that_dies_is_not_charged_with_that(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor()
    for name in ("deadly", "beside"):
        daemon.job(name, hang=True, only_on_attempt=1)
    is_held(daemon, "beside")
    daemon.send({"job_id": "first", "method": "fake", "priority": 5, "config": {"hang": True}})
    daemon.wait_accepted("first")
    os.kill(worker_pid(daemon), signal.SIGKILL)
    # On the new worker "first" runs, and "deadly" is kept back until it can have it alone.
    is_held(daemon, "first")
    pid = worker_pid(daemon)
    stop(pid)
    daemon.send({"type": "cancel", "job_id": "first"})
    daemon.job("first")
    daemon.wait_for(lambda line: line.get("refused_job_id") == "first", "a line after the cancel")
    stop(daemon.pid)
    with wire(pid).open("rb", buffering=0) as pipe:
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: unread_bytes(pipe.fileno()), "the end of the first job")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pid not in child_pids(fork_server_pid(daemon)), "the end of its worker")
    # Both are there to be read at once.
    os.kill(daemon.pid, signal.SIGCONT)
    assert daemon.wait_terminal("first")["code"] == "cancelled"
    end = daemon.wait_terminal("deadly")
    assert (end["type"], end["attempt"]) == ("result", 2)


def test_a_job_that_runs_alone_waits_for_no_busy_worker_while_another_idles(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor("--workers", "2")
    for slot in range(2):
        worker_pid(daemon, slot)
    daemon.job("endless", hang=True)
    daemon.wait_health(lambda one: any(row["jobs"] for row in one["workers"]))
    # It takes the other worker down, so that at first there is only the busy one to be had.
    daemon.job("deadly", exit_code=1, only_on_attempt=1)
    end = daemon.wait_terminal("deadly")
    assert (end["type"], end["attempt"]) == ("result", 2)


def test_a_cancel_that_meets_a_worker_on_its_way_out_is_not_lost(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGTERM)
    daemon.job("a", hang=True)
    is_held(daemon, "a")
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.ask_health()
    os.kill(pid, signal.SIGCONT)  # it leaves, and gives both back unread
    assert daemon.wait_terminal("a")["code"] == "cancelled"
    daemon.wait_health(lambda one: one["workers"][0]["restarts"] == 1)
    daemon.job("next")
    daemon.wait_terminal("next")


def test_a_cancel_that_meets_the_end_of_a_bad_job_is_passed_over(
    start_supervisor: StartDaemon,
) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    os.kill(pid, signal.SIGSTOP)
    daemon.job("a", nonsense=1)
    is_held(daemon, "a")
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.ask_health()
    os.kill(pid, signal.SIGCONT)
    assert daemon.wait_terminal("a")["code"] == "invalid_job"
    daemon.job("a")
    daemon.wait_for(lambda line: len(daemon.terminals()) == 2)
    assert daemon.terminals()[1]["type"] == "result"


def test_jobs_that_all_wait_for_one_another_are_a_stall(start_supervisor: StartDaemon) -> None:
    """Stopped between the end of one job and the start of the next, a worker says no more."""
    daemon = start_supervisor()
    daemon.job("a", hang=True, only_on_attempt=1)
    is_held(daemon, "a")
    line = b'{"type":"progress","job_id":"a","progress":0.0,"stage":"waiting","budget_s":0.1}\n'
    write_as_worker(worker_pid(daemon), line)
    assert daemon.wait_terminal("a")["attempt"] == 2
    assert daemon.wait_status("worker_restarted")["cause"]["reason"] == "stall"


def test_time_in_which_everything_stood_still_is_no_stall(start_supervisor: StartDaemon) -> None:
    """As where a container is paused, or a machine is suspended."""
    # Longer than the worker is still while the daemon is not, on any machine.
    daemon = start_supervisor("--stall-timeout-s", "8")
    daemon.job("a", steps=100_000, step_s=0.5)
    daemon.wait_progress("a")
    pid = worker_pid(daemon)
    for one in (daemon.pid, pid):
        stop(one)
    time.sleep(9.0)
    os.kill(daemon.pid, signal.SIGCONT)
    daemon.job("b")
    daemon.wait_accepted("b")  # it is awake, and the worker is not yet
    os.kill(pid, signal.SIGCONT)
    daemon.send({"type": "cancel", "job_id": "a"})
    daemon.wait_terminal("a")
    assert worker_pid(daemon) == pid


def test_health_is_not_ok_while_a_worker_does_not_answer(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    pid = worker_pid(daemon)
    stop(pid)
    assert daemon.ask_health()["status"] == "degraded"
    os.kill(pid, signal.SIGCONT)
    daemon.wait_health(lambda one: one["status"] == "ok")


def test_a_pause_of_the_daemon_makes_no_worker_look_well(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor()
    stop(worker_pid(daemon))
    known = daemon.lines.copy()
    daemon.send({"type": "health"}, b"?\n")
    daemon.wait_for(lambda line: line["type"] == "error", "the line after the request")
    stop(daemon.pid)
    time.sleep(1.5)
    os.kill(daemon.pid, signal.SIGCONT)
    report = daemon.wait_for(lambda line: line["type"] == "health" and line not in known, "health")
    assert report["status"] == "degraded"


@pytest.mark.parametrize("moment", ["a death", "the end"])
def test_a_fork_server_that_is_stopped_is_replaced(
    start_supervisor: StartDaemon, moment: str
) -> None:
    daemon = start_supervisor()
    daemon.job("a", hang=True, only_on_attempt=1)
    is_held(daemon, "a")
    os.kill(fork_server_pid(daemon), signal.SIGSTOP)
    if moment == "a death":
        os.kill(worker_pid(daemon), signal.SIGKILL)
        assert daemon.wait_terminal("a")["type"] == "result"
    else:
        daemon.send({"type": "cancel", "job_id": "a"})
        daemon.wait_terminal("a")
    daemon.close_stdin()
    daemon.wait()
    assert daemon.lines[-1]["message"] == "stopped"


def limit_files(pid: int, number: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))


@pytest.mark.parametrize("who", ["fork server", "supervisor"])
def test_a_machine_without_room_for_a_worker_is_tried_again_and_harms_no_other(
    start_supervisor: StartDaemon, who: str
) -> None:
    daemon = start_supervisor("--workers", "2")
    victim, other = worker_pid(daemon, 0), worker_pid(daemon, 1)
    pid = daemon.pid if who == "supervisor" else fork_server_pid(daemon)
    fds = [int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    limit_files(pid, max(fds) - 2 if who == "supervisor" else len(fds))
    os.kill(victim, signal.SIGKILL)
    report = daemon.wait_health(
        lambda one: (one["workers"][0]["last_restart"] or {}).get("reason") == "load_failed"
    )
    assert "Too many open files" in report["workers"][0]["last_restart"]["detail"]
    daemon.job("a")
    assert daemon.wait_terminal("a")["type"] == "result"
    limit_files(pid, 1024)
    assert worker_pid(daemon, 0) != victim
    assert worker_pid(daemon, 1) == other


SLOW_PARENT = """
import os, time

fork = os.fork

def slow_fork():
    pid = fork()
    if pid:
        time.sleep(2.0)
    return pid

os.fork = slow_fork
"""


def test_a_worker_may_be_ready_before_its_parent_tells_of_it(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_PARENT)
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path)})
    first = worker_pid(daemon)
    os.kill(first, signal.SIGKILL)
    second = daemon.wait_status("worker_restarted")["pid"]
    assert worker_pid(daemon) == second != first


NO_ROOM_AT_FIRST = """
import errno, os, socket

socketpair = socket.socketpair

def no_room():
    socket.socketpair = socketpair
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

socket.socketpair = no_room
"""


def test_a_machine_without_room_for_the_fork_server_is_tried_again(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_ROOM_AT_FIRST)
    daemon = start_supervisor(env={"PYTHONPATH": str(tmp_path)})
    daemon.job("a")
    assert daemon.wait_terminal("a")["attempt"] == 1
    cause = daemon.wait_status("worker_restarted")["cause"]
    assert cause["reason"] == "load_failed"
    assert "Too many open files" in cause["detail"]


def test_a_machine_without_room_for_a_thread_is_tried_again(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--no-template")
    victim = worker_pid(daemon)
    usual = resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK)
    # A thread gets a stack as large as the limit says: no machine has room for this one.
    resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK, (2**46, usual[1]))
    os.kill(victim, signal.SIGKILL)
    report = daemon.wait_health(lambda one: one["workers"][0]["restarts"] > 4)
    assert report["workers"][0]["last_restart"]["reason"] == "load_failed"
    assert "no room for a thread" in report["workers"][0]["last_restart"]["detail"]
    daemon.job("a")
    resource.prlimit(fork_server_pid(daemon), resource.RLIMIT_STACK, usual)
    assert daemon.wait_terminal("a")["type"] == "result"


def test_a_device_whose_worker_cannot_start_leaves_the_others_to_work(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if 'upscaled_worker' in sys.orig_argv and os.environ['CUDA_VISIBLE_DEVICES'] == '1':\n"
        "    os._exit(3)\n"
    )
    options = ("--no-template", "--device", "cuda:0,cuda:1")
    daemon = start_supervisor(*options, env={"PYTHONPATH": str(tmp_path)})
    report = daemon.wait_health(lambda one: one["workers"][1]["state"] == "stopped")
    assert report["workers"][1]["last_restart"]["exit_code"] == 3
    assert report["status"] in ("degraded", "loading")
    for number in range(10):
        daemon.job(str(number))
        assert daemon.wait_terminal(str(number))["type"] == "result"
    # Mended, and told so: it is tried again.
    (tmp_path / "sitecustomize.py").unlink()
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_health(lambda one: one["status"] == "ok")
    assert daemon.finish() == 0


def picture_job(number: int, folder: Path, **config: object) -> Line:
    image = str(REPOSITORY / "examples" / "astronaut.jpg")
    output = str(folder / f"{number}.png")
    config |= {"image_path": image, "output_path": output, "target_width": 600}
    return {"job_id": str(number), "method": "esrgan", "config": config}


def test_a_successor_that_can_do_less_does_not_take_over(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(WEIGHTS / "compact-x2.safetensors", tmp_path / "own.safetensors"))
    daemon = start_supervisor("--methods", "esrgan,fake", "--preload", str(weights))
    pid = worker_pid(daemon)
    weights.unlink()
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_stderr(b"replacement_failed")
    assert worker_pid(daemon) == pid
    daemon.send(picture_job(1, tmp_path, model="compact-x2"))
    assert daemon.wait_terminal("1")["type"] == "result"
    assert daemon.ask_health()["workers"][0]["restarts"] == 0


def test_a_successor_does_without_a_model_that_is_gone(
    start_supervisor: StartDaemon, tmp_path: Path
) -> None:
    weights = Path(shutil.copy(WEIGHTS / "compact-x2.safetensors", tmp_path / "own.safetensors"))
    daemon = start_supervisor("--methods", "esrgan")
    daemon.send(picture_job(1, tmp_path, model=str(weights)))
    assert daemon.wait_terminal("1")["type"] == "result"
    pid = worker_pid(daemon)
    daemon.wait_health(lambda one: one["models_loaded"])
    weights.unlink()
    os.kill(daemon.pid, signal.SIGHUP)
    daemon.wait_status("worker_restarted")
    assert worker_pid(daemon) != pid
    daemon.send(picture_job(2, tmp_path, model="compact-x2"))
    assert daemon.wait_terminal("2")["type"] == "result"
