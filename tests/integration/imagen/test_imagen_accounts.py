"""Who pays, who signs, and what no log may hold."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from imagen_host import (
    CANARY,
    NOBODY,
    SUPERVISOR,
    Host,
    photo,
    save,
)
from upscaled_models.imagen.loopback import Loopback
from waiting import TIMEOUT_S, wait_until

if TYPE_CHECKING:
    from tests.conftest import StartDaemon


def test_what_is_missing_is_named_at_the_job_and_nothing_is_sent(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    env = NOBODY | {"GOOGLE_VERTEX_BASE_URL": server.url, "HOME": str(tmp_path)}
    daemon = start_daemon("upscaled_supervisor", "--methods", "imagen,fake", env=env)
    ready = daemon.wait_status("ready")
    assert ready["methods"] == ["fake"]
    assert "GOOGLE_OAUTH_ACCESS_TOKEN" in ready["unavailable"]["imagen"]
    host = Host(daemon, "missing")
    path = save(tmp_path / "in.png", photo())
    for config, code, text in (
        ({}, "upstream_auth", "GCP_PROJECT_ID"),
        ({"gcp_project_id": "loopback-project"}, "upstream_auth", "GOOGLE_OAUTH_ACCESS_TOKEN"),
        ({"gcp_project_id": "p/../q"}, "invalid_job", "gcp_project_id"),
        ({"gcp_project_id": "p", "gcp_region": "evil.example/"}, "invalid_job", "gcp_region"),
        ({"gcp_project_id": "p", "model": "m:predict?x="}, "invalid_job", "model"),
    ):
        error = host.run(path, **config)
        assert (error["code"], error["retryable"]) == (code, False)
        assert text in error["error"]
    daemon.job("local")
    assert daemon.wait_terminal("local")["type"] == "result"
    assert (server.questions, server.refusals) == ([], [])


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("GOOGLE_OAUTH_ACCESS_TOKEN", f"{CANARY}\nX-Other: 1", "GOOGLE_OAUTH_ACCESS_TOKEN"),
        ("GOOGLE_OAUTH_ACCESS_TOKEN", CANARY, "(401)"),
        ("GOOGLE_APPLICATION_CREDENTIALS", "key.json", "names key.json"),
        ("GOOGLE_VERTEX_BASE_URL", f"ftp://{CANARY}", "GOOGLE_VERTEX_BASE_URL"),
    ],
)
def test_a_wrong_setting_is_named_without_its_secret(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path, name: str, value: str, text: str
) -> None:
    (tmp_path / "key.json").write_text(json.dumps({"type": "service_account", "x": CANARY}))
    env = NOBODY | {"GOOGLE_VERTEX_BASE_URL": server.url, "GCP_PROJECT_ID": "loopback-project"}
    daemon = start_daemon(*SUPERVISOR, env=env | {name: value})
    error = Host(daemon, "wrong").run(save(tmp_path / "in.png", photo()))
    wanted = "invalid_job" if name == "GOOGLE_VERTEX_BASE_URL" else "upstream_auth"
    assert error["code"] == wanted
    assert text in error["error"]
    daemon.finish()
    assert server.questions == []
    for said in (*daemon.raw, daemon.stderr):
        assert CANARY.encode() not in said


def key_file(path: Path, token_uri: str) -> dict[str, str]:
    """An environment with a service account of our own, whose key is in this file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    account = {
        "type": "service_account",
        "client_email": "painter@loopback-project.example",
        "token_uri": token_uri,
        "private_key": pem.decode(),
    }
    path.write_text(json.dumps(account))
    return {"GOOGLE_OAUTH_ACCESS_TOKEN": "", "GOOGLE_APPLICATION_CREDENTIALS": str(path)}


def test_a_service_account_signs_in_with_its_file(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    account = key_file(tmp_path / "key.json", f"{server.url}/token")
    env = NOBODY | server.environment() | account
    host = Host(start_daemon(*SUPERVISOR, env=env), "account")
    assert host.run(save(tmp_path / "in.png", photo()))["type"] == "result"


def test_a_password_for_all_hosts_is_not_sent_to_google(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("default login somebody password something\n")
    account = key_file(tmp_path / "key.json", f"{server.url}/token")
    env = NOBODY | server.environment() | account | {"NETRC": str(tmp_path / ".netrc")}
    host = Host(start_daemon(*SUPERVISOR, env=env), "netrc")
    result = host.run(save(tmp_path / "in.png", photo()))
    assert result["type"] == "result", result


def test_a_workload_pool_signs_in_and_asks_no_other_server(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    (tmp_path / "subject").write_text("a.b.c")
    pool = {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/a/b",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": f"{server.url}/token",
        "credential_source": {"file": str(tmp_path / "subject")},
    }
    (tmp_path / "key.json").write_text(json.dumps(pool))
    account = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")}
    # Google's own servers cannot be reached.
    closed = {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    env = NOBODY | server.environment() | {"GOOGLE_OAUTH_ACCESS_TOKEN": ""} | account | closed
    host = Host(start_daemon(*SUPERVISOR, env=env), "pool")
    result = host.run(save(tmp_path / "in.png", photo()))
    assert result.get("upstream_calls") == 1, result


class Silent:
    """A port of this machine that takes connections and says nothing, until it ends them all.

    Later ones it ends at once.
    """

    def __init__(self, last_words: bytes = b"") -> None:
        self.connections: list[socket.socket] = []
        self._last_words = last_words
        self._lock = threading.Lock()
        self._ended = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def end_all(self) -> None:
        with self._lock:
            self._ended = True
            connections = self.connections.copy()
        for connection in connections:
            self._end(connection)

    def _accept(self) -> None:
        while True:
            connection = self._listener.accept()[0]
            connection.settimeout(TIMEOUT_S)
            with self._lock:
                self.connections.append(connection)
                ended = self._ended
            if ended:
                self._end(connection)

    def _end(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(self._last_words)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):  # what is not taken would take the answer with it
                pass


def test_a_sign_in_that_fails_is_tried_again_and_counts_as_no_call(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    silent = Silent()
    account = key_file(tmp_path / "key.json", f"http://{silent.address}/token")
    env = NOBODY | server.environment() | account
    daemon = start_daemon(*SUPERVISOR, env=env)
    host = Host(daemon, "sign-in")
    job_id = host.send(save(tmp_path / "in.png", photo()))
    wait_until(lambda: silent.connections, "the first try")
    daemon.send({"type": "cancel", "job_id": job_id})
    assert daemon.wait_terminal(job_id)["code"] == "cancelled"
    job_id = host.send(tmp_path / "in.png")
    silent.end_all()
    error = daemon.wait_terminal(job_id)
    assert error["code"] == "upstream_unavailable"
    assert error["error"] == "Google's sign-in could not be reached (tried 5 times)"
    stages = {one["stage"] for one in daemon.lines if one["type"] == "progress"}
    assert "sent" not in stages
    assert server.questions == []


def test_a_sign_in_without_an_answer_has_another_error_than_a_call(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    account = key_file(tmp_path / "key.json", f"http://{Silent().address}/token")
    env = NOBODY | server.environment() | account
    daemon = start_daemon(*SUPERVISOR, "--cloud-budget-s", "1", env=env)
    error = Host(daemon, "silence").run(save(tmp_path / "in.png", photo()))
    assert error["code"] == "upstream_unavailable"
    assert "sign-in" in error["error"]


def test_jobs_that_wait_for_a_token_learn_together_that_there_is_none(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    body = b'{"error":"invalid_grant"}'
    head = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    silent = Silent(head % len(body) + body)
    account = key_file(tmp_path / "key.json", f"http://{silent.address}/token")
    daemon = start_daemon(*SUPERVISOR, env=NOBODY | server.environment() | account)
    host = Host(daemon, "together")
    path = save(tmp_path / "in.png", photo())
    jobs = {host.send(path) for _ in range(5)}
    waiting: set[str] = set()
    while waiting != jobs:
        waiting.add(daemon.wait_for(lambda line: waits(line, jobs - waiting))["job_id"])
    silent.end_all()
    assert {daemon.wait_terminal(job_id)["code"] for job_id in jobs} == {"upstream_auth"}
    assert len(silent.connections) == 1
    assert (server.questions, server.refusals) == ([], [])


def waits(line: dict[str, Any], jobs: set[str]) -> bool:
    return line.get("job_id") in jobs and line.get("stage") == "waiting"


def test_a_service_that_cannot_be_reached_is_unavailable(
    start_daemon: StartDaemon, server: Loopback, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        env = NOBODY | server.environment() | {"GOOGLE_VERTEX_BASE_URL": url}
        daemon = start_daemon(*SUPERVISOR, "--cloud-budget-s", "2", env=env)
        error = Host(daemon, "refused").run(save(tmp_path / "in.png", photo()))
    assert (error["code"], error["retryable"]) == ("upstream_unavailable", True)


def test_the_server_prints_the_environment_that_a_daemon_needs(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "upscaled_models.imagen.loopback", "--answers", "quota,right"],
        stdout=subprocess.PIPE,
        text=True,
    )
    with process, contextlib.ExitStack() as held:
        held.callback(process.kill)
        assert process.stdout is not None
        words = process.stdout.readline().removeprefix("export ").split()
        env = NOBODY | dict(word.split("=", 1) for word in words)
        host = Host(start_daemon(*SUPERVISOR, env=env), "hand")
        result = host.run(save(tmp_path / "in.png", photo()))
    assert result["upstream_calls"] == 2
