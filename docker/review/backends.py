#!/usr/bin/env python3
"""Asks one of the example backends at each of its routes, and prints a table of what came back.

    docker compose -f docker/compose.stack.yaml up --build --detach
    python3 docker/review/backends.py nest

    docker compose -f docker/compose.go.yaml up --build --detach
    python3 docker/review/backends.py go

Needs Python's standard library alone. The exit status is 1 if a row failed.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from check import PICTURES, CheckError, Rows, Server, doubled, print_table

_TEXT = Path(__file__).resolve()  # no picture


class Nest:
    """The NestJS example: adapters/node/nestjs/example."""

    url = "http://127.0.0.1:3000"
    health = "/api/health"

    def __init__(self, server: Server) -> None:
        self._server = server
        self._completed: list[str] = []

    def rows(self) -> Rows:
        """The table's rows, in order."""
        return [
            ("GET /api/health", self.check_health),
            ("GET /api/docs-json", self.check_documents),
            *(
                (
                    f"POST /api/upscale/esrgan {picture.name}",
                    lambda p=picture: self.check_upscale(p),
                )
                for picture in PICTURES
            ),
            ("POST an unknown field", self.check_field),
            ("POST a text as a picture", self.check_refusal),
            ("GET /api/jobs", self.check_list),
            ("DELETE /api/jobs/{id}", self.check_cancel),
            ("GET /api/status/{id} of no job", self.check_unknown),
        ]

    def check_health(self) -> str:
        """The daemon and Redis."""
        report = self._server.ask("GET", "/api/health").json()
        if any(report["info"][part]["status"] != "up" for part in ("redis", "upscaled")):
            raise CheckError(str(report))
        return str(report["status"])

    def check_documents(self) -> str:
        """What Swagger shows."""
        return f"{len(self._server.ask('GET', '/api/docs-json').json()['paths'])} paths"

    def check_upscale(self, picture: Path) -> str:
        """Submit, poll, fetch, and compare sizes."""
        fields = {"upscale_factor": "2"}
        job = self._server.submit("/api/upscale/esrgan", [picture], fields).json()
        result = self._server.finished(job, state="state")["result"]
        self._completed.append(job["job_id"])
        size = doubled(picture, self._server.ask("GET", result["url"]).body)
        return f"{size} by {result['model']}"

    def check_field(self) -> str:
        """Refused by its name."""
        answer = self._server.submit(
            "/api/upscale/esrgan", [PICTURES[0]], {"upscale_faktor": "2"}, expected=(400,)
        )
        return str(answer.json()["message"])

    def check_refusal(self) -> str:
        """Refused by its content."""
        answer = self._server.submit("/api/upscale/esrgan", [_TEXT], {}, expected=(415,))
        return str(answer.status)

    def check_list(self) -> str:
        """The jobs of this run are in it."""
        jobs = self._server.ask("GET", "/api/jobs?limit=100").json()
        missing = set(self._completed) - {job["job_id"] for job in jobs}
        if missing:
            raise CheckError(f"{len(missing)} jobs are missing")
        return f"{len(jobs)} jobs"

    def check_cancel(self) -> str:
        """A job that waits or runs: 202; one that has ended: 409."""
        job = self._server.submit("/api/upscale/esrgan", [PICTURES[0]], {}).json()
        answer = self._server.ask("DELETE", f"/api/jobs/{job['job_id']}", expected=(202, 409))
        return str(answer.json().get("state", "it had ended"))

    def check_unknown(self) -> str:
        """No other job's state."""
        return str(self._server.ask("GET", f"/api/status/{uuid.uuid4()}", expected=(404,)).status)


class Go:
    """The Go example: adapters/go/examples/backend."""

    url = "http://127.0.0.1:8090"
    health = "/health"

    def __init__(self, server: Server) -> None:
        self._server = server

    def rows(self) -> Rows:
        """The table's rows, in order."""
        return [
            ("GET /health", self.check_health),
            *(
                (f"POST /upscale {picture.name}", lambda p=picture: self.check_upscale(p))
                for picture in PICTURES
            ),
            ("POST a text as a picture", self.check_refusal),
            ("GET /upscale", self.check_method),
        ]

    def check_health(self) -> str:
        """The daemon's own report."""
        return str(self._server.ask("GET", "/health").json()["status"])

    def check_upscale(self, picture: Path) -> str:
        """The picture comes back in the answer."""
        answer = self._server.submit("/upscale?factor=2", [picture], {})
        return doubled(picture, answer.body)

    def check_refusal(self) -> str:
        """Refused by its content."""
        answer = self._server.submit("/upscale", [_TEXT], {}, expected=(415, 422))
        return answer.body.decode().strip()

    def check_method(self) -> str:
        """Pictures come by POST."""
        return str(self._server.ask("GET", "/upscale", expected=(405,)).status)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a row failed."""
    backends = {"nest": Nest, "go": Go}
    parser = argparse.ArgumentParser(
        description="Ask one of the example backends at each of its routes, and print a table."
    )
    parser.add_argument("backend", choices=sorted(backends))
    parser.add_argument("url", nargs="?", help="default: the port that its compose file publishes")
    arguments = parser.parse_args(argv)
    backend = backends[arguments.backend]
    url = arguments.url or backend.url
    server = Server(url, None)
    if not server.is_up(backend.health):
        print(f"no backend answers at {url}: start one, see --help", file=sys.stderr)
        return 1
    return print_table(backend(server).rows())


if __name__ == "__main__":
    sys.exit(main())
