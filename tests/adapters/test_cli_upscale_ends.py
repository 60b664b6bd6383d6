"""`upscaled upscale` if its daemon exits or Ctrl-C is pressed, and its bar on a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from typing import Any

import pytest

from upscale_daemon import TIMEOUT_S, instructed, run
from upscaled.channel import Channel
from upscaled.errors import DaemonGoneError
from upscaled_cli import exits
from upscaled_cli.session import Session


def test_a_daemon_that_exits_is_reported_with_the_last_lines_of_its_log(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(instructed(daemon, die=1), "a.jpg") == exits.FAILED
    error = capsys.readouterr().err
    assert "ended with status 7" in error
    assert "the last words" in error


def test_lines_that_are_no_message_are_ignored(daemon: list[str]) -> None:
    assert run(instructed(daemon, noise=1), "a.jpg") == exits.OK


# Takes two jobs, ends one of them and has more to say, and exits.
DYING = """
import json, sys
def say(**message):
    print(json.dumps(message), flush=True)
say(type="status", message="ready")
first, second = (json.loads(sys.stdin.readline())["job_id"] for _ in range(2))
say(type="accepted", job_id=second)
say(type="result", job_id=first)
say(type="status", message="tired")
sys.exit(7)
"""


def test_the_messages_of_a_daemon_come_before_its_end() -> None:
    with Session([sys.executable, "-c", DYING]) as client:
        client.submit("esrgan", {})
        client.submit("esrgan", {})
        said = [client.receive() for _ in range(4)]
        assert [one.get("message", one.get("job_id")) for one in said] == [
            *("ready", "2", "1", "tired"),
        ]
        with pytest.raises(DaemonGoneError, match="status 7"):
            client.receive()


RUN = (
    "import json, sys; from upscaled_cli.upscale import main;"
    "sys.exit(main(sys.argv[2:], json.loads(sys.argv[1])))"
)


def start(daemon: list[str], *arguments: str, **streams: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(daemon), "a.jpg", *arguments]
    return subprocess.Popen(command, text=True, start_new_session=True, **streams)


def press_ctrl_c(cli: subprocess.Popen[str]) -> None:
    """As a terminal does: every process of the foreground group gets the signal."""
    os.killpg(cli.pid, signal.SIGINT)


# Its workers exit, and it goes on starting them. It ends with its input.
FAILING = """
import json, sys
def say(**message):
    print(json.dumps({"type": "status", **message}), flush=True)
for message in sys.argv[1:]:
    say(message=message, cause={"reason": "signal"}, detail="the worker was ended by SIGILL")
for line in sys.stdin:
    job_id = json.loads(line).get("job_id")
    if job_id and "ready" in sys.argv:
        say(type="result", job_id=job_id)
"""


def test_a_command_does_not_wait_for_workers_that_never_get_ready(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run([sys.executable, "-c", FAILING, "degraded"], "a.jpg") == exits.FAILED
    assert "no worker gets ready: the worker was ended by SIGILL" in capsys.readouterr().err


def test_a_command_waits_for_workers_that_were_ready_before() -> None:
    with Session([sys.executable, "-c", FAILING, "ready", "degraded"]) as client:
        client.submit("esrgan", {})
        assert [one.get("message") for one in client.events()] == ["ready", "degraded", None]


def test_ctrl_c_cancels_the_jobs_and_waits_for_their_end(daemon: list[str]) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(instructed(daemon, wait=1), "-v", **streams) as cli:
        assert cli.stderr is not None
        assert cli.stderr.readline() == "waiting\n"
        press_ctrl_c(cli)
        out, error = cli.communicate(timeout=TIMEOUT_S)
    assert cli.returncode == exits.INTERRUPTED
    assert error == "cancelled 1\ninterrupted\n"
    assert out == ""


def test_ctrl_c_right_after_a_job_was_sent_cancels_it_too(
    daemon: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    interrupts = iter([KeyboardInterrupt])
    send = Channel.send

    def interrupted(channel: Channel, line: bytes) -> None:
        send(channel, line)
        for interrupt in interrupts:
            raise interrupt

    monkeypatch.setattr(Channel, "send", interrupted)
    assert run(instructed(daemon, wait=1), "-v", "a.jpg") == exits.INTERRUPTED
    assert capfd.readouterr().err.splitlines() == ["waiting", "cancelled 1", "interrupted"]


def test_a_second_ctrl_c_kills_a_daemon_that_does_not_obey(daemon: list[str]) -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(instructed(daemon, wait=1, stubborn=1), "-v", **streams) as cli:
        assert cli.stderr is not None
        assert cli.stderr.readline() == "waiting\n"
        press_ctrl_c(cli)
        assert cli.stderr.readline() == "cancelled 1\n"
        press_ctrl_c(cli)
        # The daemon has stderr open too: its end shows that no process is left.
        _, error = cli.communicate(timeout=TIMEOUT_S)
    assert cli.returncode == exits.INTERRUPTED
    assert "Traceback" not in error


def test_a_terminal_gets_a_progress_bar_and_a_pipe_does_not(daemon: list[str]) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with start(daemon, stdout=subprocess.PIPE, stderr=theirs) as cli:
        os.close(theirs)
        out, _ = cli.communicate(timeout=TIMEOUT_S)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert "%|" in shown
    assert "a.jpg 640x448" in out

    with start(daemon, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as cli:
        _, error = cli.communicate(timeout=TIMEOUT_S)
    assert error == ""


def test_the_client_answers_each_job_and_ends_its_daemon(daemon: list[str]) -> None:
    with Session(daemon) as client:
        ids = [client.submit("esrgan", {"image_path": "a"}) for _ in range(1000)]
        ended = [m["job_id"] for m in client.events() if m["type"] == "result"]
    assert ended == ids


def test_the_client_reports_a_daemon_that_cannot_start() -> None:
    def ask(client: Session) -> None:
        client.submit("esrgan", {})
        list(client.events())

    with (
        Session([sys.executable, "-c", "raise SystemExit('no room')"]) as client,
        pytest.raises(DaemonGoneError, match="no room"),
    ):
        ask(client)
