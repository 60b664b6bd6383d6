"""The NestJS package and its example: their own tests, against a real Redis and a real daemon."""

from __future__ import annotations

import shutil

import pytest

from nodejs import NESTJS, require_node, run

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="Redis is not installed"),
    pytest.mark.usefixtures("node_packages"),
]


@pytest.mark.parametrize(
    "part",
    ["module", "processor", "stalls", "eviction", "example", "jobs", "main", "swagger", "readme"],
)
def test_the_nestjs_package_holds_against_a_real_redis_and_a_real_daemon(
    part: str,
) -> None:
    require_node(NESTJS)
    run("node", "--test", NESTJS / "dist" / "test" / f"{part}.test.js", cwd=NESTJS)
