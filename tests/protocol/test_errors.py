"""The error codes: each has a meaning, and is documented under the one it has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from upscaled_protocol.errors import MEANINGS, ErrorCode, JobError

SPECIFICATION = (Path(__file__).parents[2] / "protocol" / "README.md").read_text()


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_has_a_meaning_of_its_own(code: ErrorCode) -> None:
    meaning = MEANINGS[code].raised_when
    assert meaning
    assert [other for other in ErrorCode if MEANINGS[other].raised_when == meaning] == [code]


def test_the_specification_lists_every_code_with_its_meaning() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (yes|no) \| (.+) \|$", SPECIFICATION, re.MULTILINE)
    assert rows == [
        (code.value, "yes" if meaning.retryable else "no", meaning.raised_when)
        for code, meaning in MEANINGS.items()
    ]


@pytest.mark.parametrize("code", ErrorCode)
def test_an_error_knows_whether_its_job_may_succeed_later(code: ErrorCode) -> None:
    error = JobError(code, "no", job_id="7")
    assert error.retryable is MEANINGS[code].retryable
    assert (str(error), error.job_id) == ("no", "7")
