"""The Node adapter: its own tests against a real daemon, and the conformance suite."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from nodejs import NODE, ROOT, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("node_packages")]
TESTS = NODE / "dist" / "test"


PARTS = sorted(path.name.removesuffix(".test.ts") for path in NODE.glob("test/*.test.ts"))


# One by one, so that the name of a part that hangs is in the report.
@pytest.mark.parametrize("part", PARTS)
def test_the_node_client_holds_against_a_real_daemon(part: str) -> None:
    run("node", "--test", TESTS / f"{part}.test.js", cwd=NODE)


OTHER_RUNTIME = """
import { createRequire } from "node:module";
const { JobError, Upscaler } = createRequire(import.meta.url)("./dist/src/index.js");
const up = await Upscaler.start({ command: ["upscaled", "run", "--methods", "fake"] });
const { status } = await up.upscale({ method: "fake", config: {} });
const endless = { method: "fake", config: { steps: 1, hang: true } };
const signal = AbortSignal.timeout(100);
const error = await up.upscale(endless, { signal }).catch((error) => error);
const ends = [status, error instanceof JobError, error.code].join();
if (ends !== "completed,true,cancelled") throw new Error(ends);
// Without a close: its daemon must not keep it alive.
"""


@pytest.mark.parametrize("runtime", [["bun"], ["deno", "run", "--allow-all"]], ids=["bun", "deno"])
def test_the_client_runs_in_other_runtimes_too(runtime: list[str], tmp_path: Path) -> None:
    if shutil.which(runtime[0]) is None:
        pytest.skip(f"{runtime[0]} is not installed")
    program = tmp_path / "program.mjs"
    program.write_text(OTHER_RUNTIME.replace("./dist", str(NODE / "dist")))
    run(*runtime, program, cwd=NODE)


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
