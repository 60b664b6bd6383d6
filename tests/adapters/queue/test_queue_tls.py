"""A queue and its record over TLS."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("bullmq", reason="bullmq is not installed")
pytest.importorskip("celery", reason="celery is not installed")

from redis.exceptions import ConnectionError as RedisConnectionError

from queue_fleet import Machine, RedisServer, needs_redis
from upscaled_queue.celeryproducer import CeleryProducer
from upscaled_queue.queueurl import read_queue_url
from upscaled_queue.settings import Settings
from waiting import TIMEOUT_S


class TlsServer(RedisServer):
    """A Redis that takes nothing but TLS, with a certificate that no authority has signed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.certificate, key = folder / "certificate", folder / "key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "2", "-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1",
             "-keyout", key, "-out", self.certificate],
            check=True,
            capture_output=True,
        )  # fmt: skip
        options = {"cert": self.certificate, "key": key, "ca-cert": self.certificate}
        files = [part for name, path in options.items() for part in (f"--tls-{name}-file", path)]
        super().__init__(folder / "data", *map(str, files), "--tls-auth-clients", "no")

    def start(self) -> None:
        """On its one port."""
        self._options = (*self._options, "--port", "0", "--tls-port", str(self.port))
        super().start()

    @property
    def url(self) -> str:
        """For a client that knows the certificate."""
        return f"{self.address}?ssl_ca_certs={self.certificate}"

    @property
    def address(self) -> str:
        return f"rediss://127.0.0.1:{self.port}/0"


pytestmark = [
    needs_redis,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """For all tests."""
    running = TlsServer(tmp_path_factory.mktemp("tls") / "redis")
    yield running
    running.kill()


def queue(url: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "upscaled_cli", "queue", *arguments, "--queue", url]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.mark.parametrize(
    ("scheme", "check"),
    [("rediss", ""), ("rediss", "&ssl_cert_reqs=CERT_REQUIRED"), ("bullmqs", "")],
)
def test_a_job_and_its_result_go_over_tls(server: TlsServer, scheme: str, check: str) -> None:
    url, job_id = server.url.replace("rediss", scheme, 1) + check, f"{scheme}{check}"
    job = json.dumps({"job_id": job_id, "method": "fake", "config": {}})
    machine = Machine(url, "--methods", "fake", daemon=(), env=os.environ)
    try:
        machine.wait_ready()
        submitted = queue(url, "submit", stdin=job)
        assert submitted.returncode == 0, submitted.stderr
        ended = queue(url, "results", job_id, "--follow")
        assert json.loads(ended.stdout)["type"] == "result", ended.stderr
        assert queue(url, "depth", "--methods", "fake").returncode == 0
    finally:
        machine.kill()


def test_a_server_with_an_unknown_certificate_gets_no_jobs(server: TlsServer) -> None:
    with pytest.raises(RedisConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        CeleryProducer(Settings(url=read_queue_url(server.address))).check()
    submitted = queue(server.address, "submit")
    assert submitted.returncode == 1
    assert "certificate verify failed" in submitted.stderr
