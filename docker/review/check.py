#!/usr/bin/env python3
"""Asks a running sidecar at each of its endpoints, and prints a table of what came back.

    docker compose -f docker/compose.yaml up --build --detach
    python3 docker/review/check.py

or without Docker: `upscaled serve`, then the same command. Needs Python's standard library alone.
The exit status is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import struct
import sys
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PICTURES = (_EXAMPLES / "astronaut.jpg", _EXAMPLES / "coffee.jpg")
_SIZES = {"astronaut.jpg": (256, 256), "coffee.jpg": (300, 200)}
_JOB_TIMEOUT_S = 600.0
_START_TIMEOUT_S = 60.0
_POLL_S = 0.2
_PNG = b"\x89PNG\r\n\x1a\n"

_USAGE = """\
examples:
  python3 docker/review/check.py
  python3 docker/review/check.py http://10.0.0.5:8080 --key "$UPSCALED_KEY"
  python3 docker/review/check.py --methods esrgan
"""


# What is asked, and the check, which returns what the table shows of the answer.
Rows = list[tuple[str, Callable[[], str]]]


class CheckError(Exception):
    """An answer that is not what it should be."""


@dataclass(frozen=True)
class Answer:
    """What the server sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Server:
    """A sidecar at an address."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url.rstrip("/")
        self._key = key
        # Never through a proxy: the server is on this machine or a private network.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        expected: Sequence[int] = (200,),
        **headers: str,
    ) -> Answer:
        """One request. Raises `CheckError` for a status that is not expected."""
        request = urllib.request.Request(self._url + path, data=body, method=method)  # noqa: S310
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        try:
            with self._opener.open(request, timeout=_JOB_TIMEOUT_S) as response:
                answer = Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            answer = Answer(error.code, dict(error.headers), error.read())
        if answer.status not in expected:
            raise CheckError(f"{answer.status} {answer.body[:300].decode('utf-8', 'replace')}")
        return answer

    def is_up(self, path: str = "/api/health/live") -> bool:
        """Wait for the server; False if it does not come."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                self.ask("GET", path)
            except (CheckError, OSError):
                time.sleep(_POLL_S)
            else:
                return True
        return False

    def submit(
        self,
        path: str,
        pictures: Sequence[Path],
        fields: dict[str, str],
        expected: Sequence[int] = (200, 202),
    ) -> Answer:
        """A multipart form, as a browser sends it."""
        boundary = uuid.uuid4().hex
        parts: list[bytes] = []
        for name, value in fields.items():
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
            parts.append(head.encode() + value.encode() + b"\r\n")
        for picture in pictures:
            head = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="image"; '
                f'filename="{picture.name}"\r\nContent-Type: image/jpeg\r\n\r\n'
            )
            parts.append(head.encode() + picture.read_bytes() + b"\r\n")
        parts.append(f"--{boundary}--\r\n".encode())
        return self.ask(
            "POST",
            path,
            b"".join(parts),
            expected=expected,
            Content_Type=f"multipart/form-data; boundary={boundary}",
        )

    def finished(self, job: dict[str, Any], state: str = "status") -> dict[str, Any]:
        """Poll the job until it ends. Raises `CheckError` if it does not complete."""
        address = job["status_url"]
        deadline = time.monotonic() + _JOB_TIMEOUT_S
        while time.monotonic() < deadline:
            job = self.ask("GET", address).json()
            if job[state] == "completed":
                return job
            if job[state] in ("failed", "cancelled"):
                raise CheckError(f"{job[state]}: {job.get('error')}")
            time.sleep(_POLL_S)
        raise CheckError(f"no end within {_JOB_TIMEOUT_S:.0f} s")


def png_size(data: bytes) -> str:
    """Width and height. Raises `CheckError` if it is no PNG."""
    if not data.startswith(_PNG):
        raise CheckError("the result is no PNG")
    width, height = struct.unpack(">II", data[16:24])
    return f"{width}x{height}"


def doubled(picture: Path, data: bytes) -> str:
    """The size of the PNG. Raises `CheckError` if it is not twice that of the picture."""
    size = png_size(data)
    width, height = _SIZES[picture.name]
    if size != f"{2 * width}x{2 * height}":
        raise CheckError(f"the result has {size}, not {2 * width}x{2 * height}")
    return size


class Review:
    """Every check by name; each returns what the table shows of it."""

    def __init__(self, server: Server, methods: Sequence[str]) -> None:
        self._server = server
        self._methods = methods
        self._completed: list[dict[str, Any]] = []

    def rows(self) -> Rows:
        """The table's rows, in order."""
        rows: Rows = [
            ("GET /api/health/live", self.check_live),
            ("GET /api/health", self.check_health),
            ("GET /api/models", self.check_models),
        ]
        for method in self._methods:
            for picture in PICTURES:
                name = f"POST /api/upscale/{method} {picture.name}"
                rows.append((name, lambda m=method, p=picture: self.check_upscale(m, p)))  # type: ignore[misc]
        return [
            *rows,
            ("POST /api/upscale?wait image/*", self.check_direct),
            ("POST /api/upscale JSON", self.check_json),
            ("POST /api/batches, two files", self.check_batch),
            ("GET /api/results.zip", self.check_zip),
            ("GET /api/jobs", self.check_list),
            ("POST /api/jobs/{id}/cancel", self.check_cancel),
            ("POST a text as a picture", self.check_refusal),
            ("DELETE /api/jobs/{id}", self.check_delete),
            ("GET /api/stats", self.check_stats),
        ]

    def check_live(self) -> str:
        """Also by HEAD, as health checks ask."""
        self._server.ask("HEAD", "/api/health/live")
        answer = self._server.ask("GET", "/api/health/live")
        return f"{answer.status}"

    def check_health(self) -> str:
        """The daemon may still be loading."""
        health = self._server.ask("GET", "/api/health").json()
        return f"{health['status']}, {health['limits']['max_input_megapixels']:g} MP at most"

    def check_models(self) -> str:
        """The bundled one is always there."""
        models = self._server.ask("GET", "/api/models").json()["models"]
        if not any(model["name"] == "compact-x4" and model["installed"] for model in models):
            raise CheckError("compact-x4 is not installed")
        return f"{len(models)} models"

    def check_upscale(self, method: str, picture: Path) -> str:
        """Submit, poll, fetch, and compare sizes."""
        submitted = self._server.submit(
            f"/api/upscale/{method}", [picture], {"upscale_factor": "2"}
        ).json()
        job = self._server.finished(submitted)
        self._completed.append(job)
        size = doubled(picture, self._server.ask("GET", job["result_url"]).body)
        return f"{size} by {job['model']}"

    def check_direct(self) -> str:
        """The picture itself comes back."""
        body = json.dumps(
            {
                "image_base64": base64.b64encode(PICTURES[0].read_bytes()).decode(),
                "target_width": 512,
            }
        ).encode()
        answer = self._server.ask(
            "POST",
            f"/api/upscale?wait={_JOB_TIMEOUT_S / 2:.0f}",
            body,
            Content_Type="application/json",
            Accept="image/*",
        )
        return png_size(answer.body)

    def check_json(self) -> str:
        """A print size, and the result as base64."""
        body = {
            "image_base64": base64.b64encode(PICTURES[1].read_bytes()).decode(),
            "target_width_inches": 4,
            "target_dpi": 150,
        }
        answer = self._server.ask(
            "POST",
            "/api/upscale/esrgan",
            json.dumps(body).encode(),
            expected=(202,),
            Content_Type="application/json",
        )
        job = self._server.finished(answer.json())
        result = self._server.ask("GET", f"{job['result_url']}?encoding=base64").json()
        return png_size(base64.b64decode(result["image_base64"]))

    def check_batch(self) -> str:
        """Several files in one request."""
        batch = self._server.submit("/api/batches", PICTURES, {"upscale_factor": "2"}).json()
        self._completed += [self._server.finished(job) for job in batch["jobs"]]
        return f"{len(batch['jobs'])} jobs"

    def check_zip(self) -> str:
        """All results in one file."""
        ids = "&".join(f"job_id={job['job_id']}" for job in self._completed)
        answer = self._server.ask("GET", f"/api/results.zip?{ids}")
        with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
            names = archive.namelist()
            if archive.testzip() is not None or len(set(names)) != len(self._completed):
                raise CheckError(f"the zip has {names}")
        return f"{len(names)} files"

    def check_list(self) -> str:
        """The jobs of this run are in it."""
        jobs = self._server.ask("GET", "/api/jobs?limit=500").json()["jobs"]
        missing = {job["job_id"] for job in self._completed} - {job["job_id"] for job in jobs}
        if missing:
            raise CheckError(f"{len(missing)} jobs are missing")
        return f"{len(jobs)} jobs"

    def check_cancel(self) -> str:
        """Before its end or after it: one answer, and one end."""
        job = self._server.submit("/api/upscale/esrgan", [PICTURES[0]], {}).json()
        self._server.ask("POST", job["cancel_url"], b"", expected=(200, 202))
        ended = self._server.ask("GET", f"{job['status_url']}?wait=60").json()
        if ended["status"] not in ("cancelled", "completed"):
            raise CheckError(f"the job is {ended['status']}")
        return str(ended["status"])

    def check_refusal(self) -> str:
        """One clear error."""
        body = json.dumps({"image_base64": base64.b64encode(b"no picture").decode()}).encode()
        answer = self._server.ask(
            "POST", "/api/upscale", body, expected=(415,), Content_Type="application/json"
        )
        return str(answer.json()["code"])

    def check_delete(self) -> str:
        """Gone, and its result with it."""
        if not self._completed:
            raise CheckError("no job was completed")
        job = self._completed.pop()
        self._server.ask("DELETE", f"/api/jobs/{job['job_id']}", expected=(204,))
        self._server.ask("GET", job["status_url"], expected=(404,))
        return "gone"

    def check_stats(self) -> str:
        """Counts of what was done."""
        stats = self._server.ask("GET", "/api/stats").json()
        return f"{stats['methods']['esrgan']['completed']} completed"


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a row failed."""
    parser = argparse.ArgumentParser(
        description="Ask a running sidecar at each of its endpoints, and print a table.",
        epilog=_USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = os.environ.get("UPSCALED_URL") or "http://127.0.0.1:8080"
    parser.add_argument(
        "url", nargs="?", default=default, help="default: UPSCALED_URL, else %(default)s"
    )
    parser.add_argument(
        "--key", default=os.environ.get("UPSCALED_KEY"), help="default: UPSCALED_KEY"
    )
    parser.add_argument(
        "--methods",
        default="esrgan",
        help="by comma; the default is esrgan, which needs no download",
    )
    arguments = parser.parse_args(argv)
    server = Server(arguments.url, arguments.key)
    if not server.is_up():
        print(f"no server answers at {arguments.url}: start one, see --help", file=sys.stderr)
        return 1
    return print_table(Review(server, arguments.methods.split(",")).rows())


def print_table(rows: Rows) -> int:
    """Run each check and print its row. Returns 1 if one failed."""
    failed = 0
    print(f"{'':4} {'request':44} {'seconds':>8}  answer")
    for name, check in rows:
        started = time.monotonic()
        try:
            told, mark = check(), "ok"
        except (CheckError, OSError, KeyError, ValueError) as error:
            told, mark = f"{type(error).__name__}: {error}", "FAIL"
            failed += 1
        print(f"{mark:4} {name:44} {time.monotonic() - started:8.2f}  {told}", flush=True)
    print(f"{failed} of {len(rows)} rows failed" if failed else "every row is ok")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
