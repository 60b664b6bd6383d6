"""The NestJS package and its example: their own tests, against a real Redis and a real daemon."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from nodejs import NESTJS, NODE, require_node, run

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def built() -> Path:
    """The compiled package, its example and its tests."""
    require_node(NODE)
    require_node(NESTJS)
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    run("npm", "run", "build", cwd=NESTJS)
    return NESTJS / "dist" / "test"


@pytest.mark.parametrize("part", ["module", "processor", "example", "readme"])
def test_the_nestjs_package_holds_against_a_real_redis_and_a_real_daemon(
    built: Path, part: str
) -> None:
    run("node", "--test", built / f"{part}.test.js", cwd=NESTJS)
