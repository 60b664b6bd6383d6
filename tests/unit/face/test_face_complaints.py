from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent


def test_every_test_that_the_table_of_complaints_names_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", (FOLDER / "README.md").read_text("utf-8")))
    there = {
        name
        for path in FOLDER.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", path.read_text("utf-8"), re.MULTILINE)
    }
    assert len(named) > 20
    assert named - there == set()
