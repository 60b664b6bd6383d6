"""The versions of other packages, as pip left them."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from upscaled_protocol.requirements import distributions_of, unsuitable, wanted

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, distribution: str, version: str) -> None:
    """Leave what pip leaves of that version."""
    metadata = folder / f"{distribution.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])


@pytest.mark.parametrize(
    ("distribution", "version", "fault"),
    [
        ("pyvips", "3.0.0", "pyvips 3.0.0 is installed, and >=3.2 is needed"),
        ("pyvips", "4.0.0rc1", None),
        ("torch", "2.10.0+cu128", "torch 2.10.0+cu128 is installed, and >=2.11 is needed"),
        ("pillow-heif", "1.5.0", "pillow-heif 1.5.0 is installed, and <2,>=1.6 is needed"),
        ("somebody-elses", "0.1", None),
    ],
)
def test_an_installed_version_that_does_not_suit_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    distribution: str,
    version: str,
    fault: str | None,
) -> None:
    install(tmp_path, monkeypatch, distribution, version)
    assert unsuitable(distribution) == fault


def test_what_is_not_installed_is_not_unsuitable() -> None:
    assert unsuitable("no-such-distribution") is None


def test_pip_is_asked_for_a_version_that_suits() -> None:
    assert wanted("pillow-heif") == "'pillow-heif<2,>=1.6'"
    assert wanted("somebody-elses") == "somebody-elses"


@pytest.mark.parametrize("extra", ["heic", "jxl", "flux", "imagen", "faces"])
def test_an_extra_brings_what_the_project_says(extra: str) -> None:
    named = [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    assert set(distributions_of(extra)) == {one.name for one in named}
