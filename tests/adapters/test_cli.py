"""The `upscaled` command itself: help, versions, exit statuses, light imports, schema."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from upscaled_cli import bench, exits
from upscaled_cli.__main__ import SUBCOMMANDS, main
from upscaled_protocol.schema import documents
from upscaled_protocol.version import VERSION

TIMEOUT_S = 60


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upscaled_cli", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)


def test_help_names_every_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == exits.OK
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in SUBCOMMANDS)


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_each_subcommand_explains_itself_with_examples_and_its_exit_statuses(name: str) -> None:
    done = run(name, "--help")
    shown = done.stdout + done.stderr
    assert done.returncode == exits.OK
    assert f"upscaled {name}" in shown
    assert "examples:" in shown
    assert "\nexit status: 0 " in shown


def test_the_version_is_reported() -> None:
    assert run("--version").stdout == f"upscaled {VERSION}\n"


@pytest.mark.parametrize("arguments", [[], ["upsacle"]])
def test_without_a_known_subcommand_the_usage_goes_to_stderr(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == exits.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "usage: upscaled" in captured.err


def test_finding_the_subcommand_imports_nothing_heavy() -> None:
    code = (
        "import sys; from upscaled_cli.__main__ import main; main(['--version']);"
        "print(*{'argparse', 'pydantic', 'torch', 'numpy', 'orjson'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.stdout.splitlines()[1:] == [""], done.stderr


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "upscaled_cli", "schema"]
    pipe = subprocess.PIPE
    # Its output is larger than the pipe, so it is still writing when the reader has ended.
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, pipesize=4096) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == exits.FAILED


@pytest.mark.parametrize(
    "arguments", [["--version"], ["upscale", "--help"], ["models", "list"], ["jobs", "a.png"]]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_reported_in_a_line_at_most(
    arguments: list[str], unbuffered: str
) -> None:
    def stderr_of(redirected: str, stdout: int = subprocess.DEVNULL) -> tuple[int, str]:
        command = ["bash", "-c", f'"$@" {redirected}', "bash", sys.executable, "-m", "upscaled_cli"]
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(
            [*command, *arguments],
            check=False,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            timeout=TIMEOUT_S,
        )
        return done.returncode, done.stderr

    # argparse ignores the error if it prints the help itself.
    full = (exits.FAILED, "upscaled: No space left on device\n")
    assert stderr_of("> /dev/full") in [full, (exits.OK, "")][: 1 + ("--help" in arguments)]
    reader, writer = os.pipe()
    os.close(reader)
    assert stderr_of("", writer)[1] == ""
    os.close(writer)
    assert stderr_of(">&-") == (exits.OK, "")


def test_ctrl_c_needs_no_traceback() -> None:
    # Interrupted while it looks at the machine, as from a terminal.
    code = (
        "import os, signal, sys; import upscaled_cli.doctor.installation as looked_at;"
        "looked_at.python = lambda: os.kill(os.getpid(), signal.SIGINT);"
        "from upscaled_cli.__main__ import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == exits.INTERRUPTED, done.stderr
    assert done.stderr == ""


def test_a_machine_without_room_for_a_thread_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: object) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("upscaled_cli.upscale.main", refuse)
    assert main(["upscale", "a.png"]) == exits.FAILED
    assert "room for one more thread: raise `ulimit -u`" in capsys.readouterr().err


def test_a_name_that_the_locale_cannot_write_is_shown_by_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "é"
    command = [sys.executable, "-m", "upscaled_cli", "models", "list", "--model-dir", str(folder)]
    env = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=TIMEOUT_S, check=True)
    assert done.stdout.endswith(f"the model folder is {tmp_path}/\\xe9\n".encode())


def test_a_file_in_the_way_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "schemas"
    done = run("schema", "--output", str(folder))
    assert done.returncode == exits.FAILED
    assert done.stderr == f"upscaled: {folder}: Not a directory\n"


@pytest.mark.parametrize("name", ["host", "worker", "errors"])
def test_schema_prints_what_is_generated(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == exits.OK
    assert json.loads(capsys.readouterr().out) == documents()[f"{name}.json"]


@pytest.mark.parametrize(
    ("name", "key"), [("http", "/api/upscale/{method}"), ("postman", "{{url}}/api/upscale/:method")]
)
def test_schema_prints_the_api(name: str, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", name]) == exits.OK
    assert key in json.dumps(json.loads(capsys.readouterr().out))


def test_schema_without_a_name_prints_all_and_writes_files_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema"]) == exits.OK
    assert set(json.loads(capsys.readouterr().out)) == {"host", "worker", "errors"}
    assert main(["schema", "--output", str(tmp_path)]) == exits.OK
    for name, document in documents().items():
        assert json.loads((tmp_path / name).read_text("utf-8")) == document


def test_a_benchmark_without_its_library_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.delitem(sys.modules, "upscaled_bench.encoders", raising=False)
    assert bench.main(["encoders"]) == exits.FAILED
    assert "skimage is missing: pip install 'upscaled[bench]'" in capsys.readouterr().err
