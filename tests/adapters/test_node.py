"""The Node adapter: its own tests against a real daemon, and the conformance suite."""

from __future__ import annotations

import sys

import pytest

from nodejs import NODE, ROOT, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("node_packages")]
TESTS = NODE / "dist" / "test"

# What the Node client does not meet yet.
OPEN = {
    "a_waiting_job",
    "answers_in_any_order",
    "fatal_line",
    "file_names",
    "first_start_fails",
    "frozen",
    "no_start_at_all",
    "not_accepted",
    "null_ids",
    "queue_full",
    "queue_is_full",
    "silent",
    "unsendable_ids",
    "unsendable_sizes",
    "unsendable_values",
}


def test_the_node_client_holds_against_a_real_daemon() -> None:
    run("node", "--test", *sorted(TESTS.glob("*.test.js")), cwd=NODE)


def test_the_node_client_meets_every_conformance_case() -> None:
    driver = TESTS / "conformance.js"
    folders = (ROOT / "protocol/examples", ROOT / "protocol/conformance/cases")
    names = {path.stem for folder in folders for path in folder.glob("*.jsonl")} - OPEN
    cases = [f"--case={name}" for name in sorted(names)]
    run(sys.executable, "-m", "conformance", *cases, "node", driver, cwd=ROOT / "protocol")
