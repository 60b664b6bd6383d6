"""The Node adapter: its own tests against a real daemon, and the conformance suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodejs import NODE, ROOT, require_node, run

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled adapter."""
    require_node()
    run("npm", "run", "build", cwd=NODE)
    return NODE / "dist"


def test_the_node_client_holds_against_a_real_daemon(built: Path) -> None:
    run("node", "--test", *sorted(built.glob("test/*.test.js")), cwd=NODE)


def test_the_node_client_meets_every_conformance_case(built: Path) -> None:
    driver = built / "test" / "conformance.js"
    run(sys.executable, "-m", "conformance", "node", driver, cwd=ROOT / "protocol")
