"""A number or path on a command line that is not allowed: the error says what is allowed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest

from upscaled_protocol.optionvalues import (
    above_zero,
    at_least_zero,
    count,
    given_path,
    number,
    whole_number,
)


@pytest.mark.parametrize(
    ("read", "text", "error"),
    [
        (whole_number, "1.5", "'1.5' is not a whole number"),
        (count, "abc", "'abc' is not a whole number"),
        (count, "0", "'0' is below 1: it must be at least 1"),
        (number, "abc", "'abc' is not a number"),
        (number, "nan", "'nan' is not a number"),
        (number, "inf", "'inf' is not a number"),
        (above_zero, "", "'' is not a number"),
        (above_zero, "0", "'0' is not above 0"),
        (at_least_zero, "-1", "'-1' is below 0"),
        (given_path, "", "the path is empty: give one, or . for the working folder"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_with_what_is(
    capsys: pytest.CaptureFixture[str], read: Callable[[str], float | Path], text: str, error: str
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=read)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--limit={text}"])
    assert capsys.readouterr().err.endswith(f"error: argument --limit: {error}\n")


def test_a_value_that_is_allowed_is_read() -> None:
    assert (whole_number("-3"), count("1"), at_least_zero("0")) == (-3, 1, 0.0)
    assert (number("-1e3"), above_zero("0.5")) == (-1000.0, 0.5)
    assert given_path(" ") == Path(" ")
