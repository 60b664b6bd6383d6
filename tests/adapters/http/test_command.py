"""The command `upscaled serve`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from upscaled_cli.__main__ import main as upscaled
from upscaled_cli.candidates import candidates
from upscaled_http.command import main, parser
from upscaled_http.keys import Key, parse_keys
from waiting import TIMEOUT_S, wait_until

KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove settings of the environment in which the tests run."""
    for name in os.environ:
        if name.startswith("UPSCALED_") or name in ("PORT", "UPLOAD_DIR", "OUTPUT_DIR"):
            monkeypatch.delenv(name)


class Serving:
    """A running `upscaled serve`."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Any:
        request = urllib.request.Request(self.url + target, headers=dict(headers or {}))
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def post(self, target: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        sent = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url + target, json.dumps(body).encode(), sent)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def stop(self, *signals: signal.Signals) -> tuple[int, str, str]:
        """Its exit status, stdout and stderr."""
        for one in signals:
            self.process.send_signal(one)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


def started(data: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "upscaled_cli",
        "serve",
        "--port",
        "0",
        "--data-dir",
        str(data),
    ]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "UPSCALED_WORKERS_METHODS": "fake", **environ},
    )


@contextmanager
def serving(data: Path, *arguments: str, **environ: str) -> Iterator[Serving]:
    process = started(data, *arguments, **environ)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("upscaled serve: the page is at http://127.0.0.1:"), line
        yield Serving(process, line.split()[-1].rstrip("/"))
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


# --- without a server ---------------------------------------------------------------------------


def test_help_has_examples_and_the_shells_complete_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        upscaled(["serve", "--help"])
    assert "examples:\n  upscaled serve " in capsys.readouterr().out
    assert {"--config", "--new-key", "--print-config"} <= set(candidates(["serve", "--"]).words)
    assert candidates(["serve", "--data-dir", ""]).names == "folders"
    assert candidates(["serve", "--config", ""]).names == "files"
    assert parser().parse_args([]).port is None


def test_the_settings_are_printed_without_keys(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCALED_AUTH_KEYS", f"web:{KEY}")
    arguments = ["--print-config", "--port", "9", "--data-dir", "/d"]
    assert main([*arguments, "--", "--stall-timeout-s", "5"]) == 0
    out = capsys.readouterr().out
    content = yaml.safe_load(out)
    assert content["server"]["port"] == 9
    assert content["storage"]["data_dir"] == "/d"
    assert content["workers"]["args"] == ["--stall-timeout-s", "5"]
    assert content["auth"]["keys"] == ["web:***"]
    assert KEY not in out


def test_faults_of_the_settings_are_lines_and_wrong_usage(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPSCALED_LIMITS_MAX_QUEUE", "none")
    assert main(["--port", "x", "--host", "0.0.0.0"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("--port: server.port: ")
    assert second.startswith("UPSCALED_LIMITS_MAX_QUEUE: limits.max_queue: ")


def test_a_new_key_is_a_line_for_the_keys_file_and_is_shown_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--new-key", "phone"]) == 0
    captured = capsys.readouterr()
    text = captured.err.split()[-1]
    assert parse_keys(captured.out) == (Key.of("phone", text),)
    assert text not in captured.out
    assert main(["--new-key", "my phone"]) == 2


def test_without_the_extra_a_sentence_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "upscaled_http.sources")
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main([]) == 1
    assert capsys.readouterr().err == (
        "upscaled serve: the Python module yaml is missing: pip install 'upscaled[http]'\n"
    )


@pytest.fixture
def quiet(logging_restored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepares this process so that `main` can serve in it."""
    monkeypatch.setattr("faulthandler.enable", lambda: None)  # capsys has no file


@pytest.mark.usefixtures("quiet")
def test_options_that_the_daemon_refuses_end_it_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = ("sh", "-c", 'echo "unrecognized arguments: $2" >&2; exit 2', "sh")
    monkeypatch.setattr("upscaled_http.daemoncommand.default_command", lambda: refusing)
    arguments = ["--port", "0", "--data-dir", str(tmp_path)]
    assert main([*arguments, "--", "--no-such-option"]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith("upscaled serve: `upscaled run` refuses its options")
    assert "workers.args" in sentence


@pytest.mark.usefixtures("quiet")
def test_a_folder_that_cannot_be_written_ends_it_with_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["--port", "0", "--data-dir", str(tmp_path / "file" / "data")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("upscaled serve: storage.data_dir: ")
    assert err.count("\n") == 1


@pytest.mark.usefixtures("quiet")
def test_a_limit_of_open_files_below_the_setting_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 1024))
    monkeypatch.setattr("resource.setrlimit", lambda _, limit: limits.append(limit))
    (tmp_path / "file").touch()
    main(["--port", "0", "--data-dir", str(tmp_path / "file" / "data")])
    assert limits == [(1024, 1024)]
    sentence = capsys.readouterr().err.splitlines()[0]
    assert "may open 1024 files, and 2000 connections (server.max_connections) need" in sentence


# --- with one -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("quiet")
def test_it_serves_alone_on_its_folder_and_its_port_and_ends_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "serve.log"
    config = tmp_path / "serve.yaml"
    config.write_text(f"logging: {{output: both, file_path: {log}}}\n")
    data = tmp_path / "data"
    keys = {"UPSCALED_AUTH_KEYS": f"web:{KEY}"}
    with serving(data, "--config", str(config), **keys) as server:
        assert server.get("/api/health/live") == {"ok": True}
        sent = {"X-API-Key": KEY, "X-Request-ID": "asked"}
        health = server.get("/api/health", sent)
        job = server.post("/api/upscale/fake", {}, sent)
        assert health["status"] in ("loading", "ok")
        # A second server on the same folder, and one on the same port.
        assert main(["--port", "0", "--data-dir", str(data)]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert err.startswith("upscaled serve: storage.data_dir: another server uses ")
        port = server.url.rpartition(":")[2]
        assert main(["--port", port, "--data-dir", str(tmp_path / "other")]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"127.0.0.1 port {port} cannot be used" in err
        assert not (tmp_path / "other").exists()
        status, out, err = server.stop(signal.SIGTERM)
    assert status == 0
    lines = [json.loads(line) for line in out.splitlines()]
    asked = [(line["key"], line["job_id"]) for line in lines if line.get("request_id") == "asked"]
    assert asked == [("web", None), ("web", job["job_id"])]
    assert log.read_text() == out
    assert KEY not in out + err + str(list(data.rglob("*")))


def test_a_second_signal_ends_it_at_once_and_its_workers_with_it(tmp_path: Path) -> None:
    with serving(tmp_path, UPSCALED_SERVER_GRACE_S="600") as server:
        job = server.post("/api/upscale/fake", {"steps": 10_000, "step_s": 0.01})
        wait_until(
            lambda: server.get(job["status_url"])["status"] == "processing", "the job's start"
        )
        (worker,) = server.get("/api/health")["workers"]
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: is_draining(server), "the drain")
        wait_until(lambda: has_ended_after_signal(server), "the server's end")
        status, out, _ = server.stop()
    assert status == 1
    assert json.loads(out.splitlines()[-1])["message"] == "a second signal: stopping at once"
    wait_until(lambda: not psutil.pid_exists(worker["pid"]), "the worker's end")


def has_ended_after_signal(server: Serving) -> bool:
    """A signal that comes within a moment of the first one counts as the same."""
    server.process.send_signal(signal.SIGTERM)
    return server.process.poll() is not None


def is_draining(server: Serving) -> bool:
    try:
        server.get("/api/health")
    except urllib.error.HTTPError as error:
        with error:
            return bool(json.load(error)["status"] == "draining")
    return False
