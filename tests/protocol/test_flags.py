"""Settings whose fields are flags: each is written once."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from upscaled_models.engine import Settings
from upscaled_protocol.flags import add_flags, flag, read_flags, switch
from upscaled_protocol.optionvalues import count
from upscaled_protocol.urlpolicy import HostPort
from upscaled_worker.__main__ import parser


@dataclass(frozen=True)
class Inner:
    folder: Path | None = flag("a folder", Path, default=None, variable="TEST_FOLDER")
    is_open: bool = switch("open it", name="open")


@dataclass(frozen=True)
class Base:
    inner: Inner = field(default_factory=Inner)
    limit: int = 3


@dataclass(frozen=True)
class Derived(Base):
    roots: tuple[str, ...] = flag("a root", name="root", default=(), collect=tuple)
    max_jobs: int = flag("jobs (default: %(default)s)", count, default=5)
    place: str = flag("a place", default_factory=lambda: "here")


def read(*arguments: str, without: type | None = None) -> argparse.Namespace:
    command = argparse.ArgumentParser()
    add_flags(command, Derived, without=without)
    return command.parse_args(arguments)


def test_without_flags_all_fields_have_their_defaults() -> None:
    assert read_flags(Derived, read()) == Derived() == Derived(place="here")


def test_flags_set_their_fields_in_nested_settings_too() -> None:
    arguments = ["--open", "--folder", "/a", "--root", "x", "--root", "y", "--max-jobs", "2"]
    settings = read_flags(Derived, read(*arguments), limit=9)
    inner = Inner(folder=Path("/a"), is_open=True)
    assert settings == Derived(inner, 9, ("x", "y"), 2)


def test_a_variable_of_the_environment_is_a_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FOLDER", "/b")
    assert read_flags(Derived, read()).inner.folder == Path("/b")
    assert read_flags(Derived, read("--folder", "/c")).inner.folder == Path("/c")
    assert Inner().folder is None
    monkeypatch.setenv("TEST_FOLDER", "")
    assert read_flags(Derived, read()).inner.folder is None


def test_the_flags_of_a_base_can_be_left_out() -> None:
    options = read("--root", "x", without=Base)
    assert sorted(vars(options)) == ["max_jobs", "place", "roots"]


@pytest.mark.parametrize("text", ["0", "-1", "many"])
def test_a_count_is_at_least_one(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read("--max-jobs", text)
    assert "--max-jobs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "fault"),
    [
        ("--threads", "0", "'0' is below 1"),
        ("--threads", "many", "'many' is not a whole number"),
        ("--model-memory-gb", "nan", "'nan' is not a number"),
        ("--model-memory-gb", "0", "'0' is not above 0"),
        ("--model-idle-s", "-1", "'-1' is below 0"),
        ("--cloud-jobs", "0", "'0' is below 1"),
        ("--cloud-calls-per-minute", "0", "'0' is below 1"),
        ("--cloud-budget-s", "0", "'0' is not above 0"),
        ("--max-input-megapixels", "nan", "'nan' is not a number"),
        ("--max-output-megapixels", "-1", "'-1' is not above 0"),
    ],
)
def test_a_number_that_limits_nothing_is_wrong_usage(
    option: str, value: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([option, value])
    assert f"argument {option}: {fault}" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--allow-root", "--output-dir", "--model-dir"])
def test_an_empty_path_is_not_the_working_folder(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([option, ""])
    assert f"argument {option}: the path is empty" in capsys.readouterr().err


def test_the_flags_of_a_worker_are_those_of_its_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("OUTPUT_DIR", "MODEL_CACHE_DIR", "MAX_CONCURRENT_JOBS"):
        monkeypatch.delenv(name, raising=False)
    assert read_flags(Settings, parser().parse_args([])) == Settings()
    monkeypatch.setenv("MAX_CONCURRENT_JOBS", "3")
    line = f"--allow-root {tmp_path} --allow-host minio:9000 --allow-private-urls --preload a"
    options = parser().parse_args([*line.split(), "--preload", "b", "--max-input-megapixels", "1"])
    settings = read_flags(Settings, options)
    assert settings.access.roots == (tmp_path.resolve(),)
    assert settings.access.urls.allow_hosts == {HostPort("minio", 9000)}
    assert settings.access.urls.allow_private
    assert settings.preload == ("a", "b")
    assert settings.limits.max_input_megapixels == 1
    assert settings.cloud_jobs == 3
