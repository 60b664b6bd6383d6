"""Every client against the same scripted workers, and the suite itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(600)


def conformance(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the suite on a driver."""
    return subprocess.run(
        [sys.executable, "-m", "conformance", *map(str, arguments)],
        cwd=ROOT / "protocol",
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_python_client_meets_every_case() -> None:
    run = conformance(sys.executable, ROOT / "adapters/shell/conformance_driver.py")
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_client_that_settles_nothing_is_told_so(tmp_path: Path) -> None:
    driver = tmp_path / "deaf.py"
    driver.write_text("import sys\nfor line in sys.stdin:\n    if 'close' in line: break\n")
    run = conformance("--case", "one_job", "--case", "silent_close", sys.executable, driver)
    assert run.returncode == 1
    assert "FAILED one_job: expected" in run.stdout
    assert "0 of 2 cases hold" in run.stdout


def test_a_client_that_writes_another_job_is_told_so(tmp_path: Path) -> None:
    driver = tmp_path / "liar.py"
    source = (ROOT / "adapters/shell/conformance_driver.py").read_text()
    driver.write_text(source.replace('step["job"]}', 'step["job"], "priority": 7}'))
    run = conformance("--case", "minimal_host", sys.executable, driver)
    assert run.returncode == 1
    assert "the worker says" in run.stdout
