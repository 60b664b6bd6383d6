"""Every client against the same scripted workers, and the suite itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

DRIVER = ROOT / "adapters/python/conformance_driver.py"

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
    run = conformance("--timeout-s", "120", sys.executable, DRIVER)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "left out" not in run.stdout


def test_the_python_client_meets_every_case_over_http() -> None:
    run = conformance("--http", "--timeout-s", "60", sys.executable, DRIVER)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_client_that_sends_a_new_job_instead_of_the_same_again_is_reported(
    tmp_path: Path,
) -> None:
    driver = tmp_path / "doubles.py"
    forgets = """
from upscaled.http.submission import Submission
real = Submission.exchange
def exchange(self, on_refused):
    made = real(self, on_refused)
    made.headers.update({"Idempotency-Key": "x"})
    return made
Submission.exchange = exchange
"""
    start = 'if __name__ == "__main__":'
    assert start in DRIVER.read_text()
    driver.write_text(DRIVER.read_text().replace(start, f"{forgets}\n{start}"))
    cases = ["--case", "named_beside_input", "--case", "one_job"]
    run = conformance("--http", *cases, sys.executable, driver)
    assert run.returncode == 1
    assert "FAILED named_beside_input: the Idempotency-Key 'x' is an old one" in run.stdout
    assert "ok one_job" in run.stdout


def test_a_client_that_leaves_half_a_picture_is_reported(tmp_path: Path) -> None:
    driver = tmp_path / "leaves.py"
    start = 'if __name__ == "__main__":'
    leaves = "import pathlib\npathlib.Path.unlink = lambda *_, **__: None\n"
    driver.write_text(DRIVER.read_text().replace(start, f"{leaves}\n{start}"))
    run = conformance("--http", "--case", "result_gone", sys.executable, driver)
    assert run.returncode == 1
    assert "was left in the folder" in run.stdout


def test_a_client_that_sends_what_no_daemon_can_answer_is_reported(tmp_path: Path) -> None:
    driver = tmp_path / "sends_all.py"
    source = DRIVER.read_text()
    spoilt = '{"job_id": job["job_id"] + "\\ud83d"}'
    assert spoilt in source
    driver.write_text(source.replace(spoilt, '{"priority": 1}'))
    run = conformance("--case", "unsendable_ids", sys.executable, driver)
    assert run.returncode == 1
    assert "FAILED unsendable_ids: " in run.stdout


def test_a_client_that_mixes_up_answers_is_reported(tmp_path: Path) -> None:
    driver = tmp_path / "mixes_up.py"
    source = DRIVER.read_text()
    # An answer to `health` is reported as one to `trim`, and the reverse.
    mixed = source.replace("report_answer(kind, done)", "report_answer(other(kind), done)")
    assert mixed != source
    other = 'def other(kind): return {"health": "trim", "trim": "health"}[kind]\n'
    driver.write_text(mixed.replace("SPOILERS:", f"{other}\n\nSPOILERS:"))
    run = conformance("--case", "answers_in_any_order", sys.executable, driver)
    assert run.returncode == 1
    assert "not expected" in run.stdout


# Says of every case that the client lacks what it needs.
LACKS_ALL = """
import json, sys
for line in sys.stdin:
    step = json.loads(line)
    if step["do"] == "start":
        print(json.dumps({"did": "start", "cannot": step["needs"]}), flush=True)
"""


def test_what_a_client_has_not_is_left_out_and_named(tmp_path: Path) -> None:
    driver = tmp_path / "lacks_all.py"
    driver.write_text(LACKS_ALL)
    run = conformance("--case", "fatal_line", "--case", "null_ids", sys.executable, driver)
    assert run.returncode == 0
    assert "left out fatal_line: the client has no restart" in run.stdout
    assert "left out null_ids: the client has no bound" in run.stdout
    assert "0 of 2 cases hold, 2 left out" in run.stdout


def test_a_client_that_settles_nothing_is_reported(tmp_path: Path) -> None:
    driver = tmp_path / "deaf.py"
    driver.write_text("import sys\nfor line in sys.stdin:\n    if 'close' in line: break\n")
    cases = ["--case", "one_job", "--case", "silent_close"]
    run = conformance("--timeout-s", "0.5", *cases, sys.executable, driver)
    assert run.returncode == 1
    assert "FAILED one_job: expected" in run.stdout
    assert "0 of 2 cases hold" in run.stdout


def test_a_client_that_writes_another_job_is_reported(tmp_path: Path) -> None:
    driver = tmp_path / "liar.py"
    driver.write_text(DRIVER.read_text().replace("spoilt(job, spoil)", 'job | {"priority": 7}'))
    run = conformance("--case", "minimal_host", sys.executable, driver)
    assert run.returncode == 1
    assert "the worker says" in run.stdout
