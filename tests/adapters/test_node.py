"""The Node adapter: its own tests against a real daemon, and the conformance suite."""

from __future__ import annotations

import sys

import pytest

from nodejs import NODE, ROOT, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("node_packages")]
TESTS = NODE / "dist" / "test"


PARTS = sorted(path.name.removesuffix(".test.ts") for path in NODE.glob("test/*.test.ts"))


# One by one, so that the name of a part that hangs is in the report.
@pytest.mark.parametrize("part", PARTS)
def test_the_node_client_holds_against_a_real_daemon(part: str) -> None:
    run("node", "--test", TESTS / f"{part}.test.js", cwd=NODE)


def test_the_node_client_meets_every_conformance_case() -> None:
    driver = TESTS / "conformance.js"
    run(
        sys.executable,
        "-m",
        "conformance",
        "--timeout-s",
        "120",
        "node",
        driver,
        cwd=ROOT / "protocol",
    )


def test_the_node_client_meets_every_case_over_http() -> None:
    suite = [sys.executable, "-m", "conformance", "--http", "--timeout-s", "60"]
    run(*suite, "node", TESTS / "conformance.js", cwd=ROOT / "protocol")
