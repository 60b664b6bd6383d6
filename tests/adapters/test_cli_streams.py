"""`-` for stdin and stdout, with a stand-in daemon that turns a file's bytes around."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from upscaled_cli import exits
from upscaled_cli.upscale import main

TIMEOUT_S = 60
PICTURE = bytes(range(256)) * 3000

DAEMON = """
import json, os, pathlib, sys
asked = os.environ.get("ASKED")
for line in sys.stdin:
    job = json.loads(line)
    if job.get("type") == "cancel":
        job["type"] = "error"
        print(json.dumps(job), flush=True)
        continue
    config, end = job["config"], {"job_id": job["job_id"]}
    sys.stderr.write("got it\\n")
    sys.stderr.flush()
    if asked == "wait":
        continue
    if asked == "fail":
        end |= {"type": "error", "error": "it failed"}
    else:
        data = pathlib.Path(config["image_path"]).read_bytes()
        output = pathlib.Path(config.get("output_path") or sys.argv[1].partition("=")[2] + "/x.png")
        output.write_bytes(data[::-1])
        end |= {"type": "result", "processing_time": 1.0, "output_path": str(output)}
    print(json.dumps(end), flush=True)
"""
RUN = (
    "import json, sys; from upscaled_cli.upscale import main;"
    "sys.exit(main(sys.argv[2:], json.loads(sys.argv[1])))"
)


def start(folder: Path, *arguments: str, asked: str = "") -> subprocess.Popen[bytes]:
    """The command, with the folder for its temporary files. asked: of the stand-in."""
    command = [sys.executable, "-c", RUN, json.dumps([sys.executable, "-c", DAEMON]), *arguments]
    pipe = subprocess.PIPE
    env = os.environ | {"TMPDIR": str(folder), "ASKED": asked}
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, cwd=folder)


def test_a_picture_goes_from_stdin_to_stdout_and_nothing_else_does(tmp_path: Path) -> None:
    with start(tmp_path, "-", "-o", "-") as cli:
        out, error = cli.communicate(PICTURE, TIMEOUT_S)
    assert cli.returncode == exits.OK
    assert out == PICTURE[::-1]
    assert error == b"stdin -> stdout in 1.0 s\n"
    assert list(tmp_path.iterdir()) == []


def test_a_file_goes_to_stdout_and_stdin_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    with start(tmp_path, "-i", "a.jpg", "-o", "-") as cli:
        out, _ = cli.communicate(b"", TIMEOUT_S)
    assert out == PICTURE[::-1]
    with start(tmp_path, "-", "-o", "b.png") as cli:
        out, _ = cli.communicate(PICTURE, TIMEOUT_S)
    assert (tmp_path / "b.png").read_bytes() == PICTURE[::-1]
    assert out == f"stdin -> {tmp_path}/b.png in 1.0 s\n".encode()


def test_the_files_of_stdin_and_stdout_are_the_streams(tmp_path: Path) -> None:
    with start(tmp_path, "/dev/stdin", "-o", "/dev/stdout") as cli:
        out, error = cli.communicate(PICTURE, TIMEOUT_S)
    assert (out, error) == (PICTURE[::-1], b"stdin -> stdout in 1.0 s\n")


def test_a_pipe_is_read_as_bash_makes_it_for_a_command(tmp_path: Path) -> None:
    pipe, output = tmp_path / "pipe", tmp_path / "b.png"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(PICTURE,))
    writer.start()
    assert main([str(pipe), "-o", str(output)], [sys.executable, "-c", DAEMON]) == exits.OK
    writer.join(TIMEOUT_S)
    assert output.read_bytes() == PICTURE[::-1]


def test_a_failure_leaves_stdout_empty(tmp_path: Path) -> None:
    with start(tmp_path, "-", "-o", "-", asked="fail") as cli:
        out, error = cli.communicate(PICTURE, TIMEOUT_S)
    assert (cli.returncode, out, error) == (exits.FAILED, b"", b"stdin: it failed\n")
    assert list(tmp_path.iterdir()) == []


def test_a_stdout_that_is_full_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(PICTURE)
    code = (
        "import json, sys; from upscaled_cli import __main__, upscale; run = upscale.main;"
        "daemon = json.loads(sys.argv.pop(1)); upscale.main = lambda argv: run(argv, daemon);"
        "sys.exit(__main__.main())"
    )
    daemon = json.dumps([sys.executable, "-c", DAEMON])
    command = [sys.executable, "-c", code, daemon, "upscale", "a.jpg", "-o", "-"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command,
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            timeout=TIMEOUT_S,
            check=False,
        )
    assert done.returncode == exits.FAILED
    assert done.stderr == b"upscaled: stdout: No space left on device\n"


def test_sigterm_leaves_no_temporary_file(tmp_path: Path) -> None:
    with start(tmp_path, "-v", "-", "-o", "-", asked="wait") as cli:
        assert cli.stdin is not None
        assert cli.stderr is not None
        cli.stdin.close()
        assert cli.stderr.readline() == b"got it\n"
        cli.send_signal(signal.SIGTERM)
        assert cli.wait(TIMEOUT_S) == exits.INTERRUPTED
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-", "give -o FILE, or -o - for stdout"),
        ("- - -o large/", "stdin is one picture"),
        ("a.jpg b.jpg -o -", "stdout takes one picture, and there are 2"),
        ("a.jpg -o - --json", "--json and -o - both write to stdout"),
        ("a.jpg -o -", "stdout, which is a terminal"),
        ("- -o b.png", "stdin, which is a terminal"),
    ],
)
def test_what_no_stream_can_be_is_wrong_usage(
    arguments: str, sentence: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(sys, "stdout", Terminal())
    with pytest.raises(SystemExit) as refused:
        main(arguments.split(), [])
    assert refused.value.code == exits.USAGE
    assert sentence in capsys.readouterr().err


def test_a_closed_stdin_is_wrong_usage(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as Python has it after `<&-`
    with pytest.raises(SystemExit) as refused:
        main(["-", "-o", "b.png"], [])
    assert refused.value.code == exits.USAGE
    assert "stdin, which is closed" in capsys.readouterr().err
