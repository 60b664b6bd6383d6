"""`upscaled upscale`: its pictures, outputs and messages, with a stand-in daemon."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from upscale_daemon import instructed, run, sent
from upscaled_cli import exits
from upscaled_cli.session import Session
from upscaled_cli.upscale import main


def test_each_picture_gets_a_line_with_its_sizes_and_time(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "b.jpg", "-o", tmp_path / "out") == exits.OK
    out = capsys.readouterr().out.splitlines()
    assert out == [
        f"{name} 640x448 -> {tmp_path}/out/out.png 2560x1792 in 1.2 s"
        for name in ("a.jpg", "b.jpg")
    ]


def test_a_failure_is_reported_and_does_not_stop_the_others(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(instructed(daemon, fail="it failed"), "a.jpg") == exits.FAILED
    captured = capsys.readouterr()
    assert captured.err == "a.jpg: it failed\n"
    assert captured.out == ""


def test_behind_two_dashes_a_picture_may_begin_with_a_dash(daemon: list[str], capsys: Any) -> None:
    argv = ("--factor", "2", "--", "-a.jpg", "--", "--json")
    names = [Path(config["image_path"]).name for config in sent(daemon, *argv, capsys=capsys)]
    assert names == ["-a.jpg", "--", "--json"]


def test_a_name_that_no_job_line_can_hold_fails_alone(
    daemon: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # as ever
    # Cut through an emoji, which no file name can be.
    assert run(daemon, "caf\ud83d.jpg", "b.jpg", "-o", "out/") == exits.FAILED
    captured = capsys.readouterr()
    assert "half a surrogate pair" in captured.err
    assert captured.out.startswith("b.jpg 640x448")


def test_more_pictures_than_a_daemon_holds_are_given_to_it_in_turn(
    daemon: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_flight = []

    class Watched(Session):
        def submit(self, *given: Any, **named: Any) -> str:
            job_id = super().submit(*given, **named)
            in_flight.append(len(self.pending))
            return job_id

    monkeypatch.setattr("upscaled_cli.upscale.Session", Watched)
    assert run(daemon, *(f"{number}.jpg" for number in range(2500)), "-o", tmp_path) == exits.OK
    assert len(in_flight) == 2500
    assert max(in_flight) == 1000


def test_an_output_folder_may_begin_with_a_dash(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(daemon, "a.jpg", "-o=-large/") == exits.OK
    assert " -> -large//out.png " in capsys.readouterr().out


def test_several_pictures_and_existing_folders_make_the_output_a_folder(
    daemon: list[str], tmp_path: Path, capsys: Any
) -> None:
    for arguments in (
        ["a.jpg", "b.jpg", "-o", str(tmp_path / "new")],
        ["a.jpg", "-o", str(tmp_path)],
    ):
        assert all(
            "output_path" not in config for config in sent(daemon, *arguments, capsys=capsys)
        )


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.jpg", "--config", "faces"],
        ["a.jpg", "--config", "=1"],
        ["a.jpg", "--config", "tile=12"],
        ["a.jpg", "--config", "image_path=b.jpg"],
        ["a.jpg", "--factor", "2", "--config", "upscale_factor=3"],
        ["a.jpg", "--config", "faces=true", "--config", "faces=false"],
        ["a.jpg", "-o", ""],
        ["a.jpg", "-o", "b.png", "--config", "output_path=c.png"],
        ["a.jpg", "b.jpg", "--config", "output_path=c.png"],
        ["a.jpg", "-o", "b.png", "--config", "output_base64=true", "--json"],
        ["a.jpg", "--config", "output_base64=true"],
        ["a.jpg", "--crop", "center"],
        ["a.jpg", "--crop", "center", "--width", "800"],
        ["a.jpg", "--crop", "center", "--width", "800", "--height-inches", "2"],
        ["a.jpg", "--crop", "middle", "--width", "8", "--height", "8"],
        ["a.jpg", "--width", "800", "--height-inches", "2"],
        ["a.jpg", "--width-cm", "8", "--height", "9"],
        ["a.jpg", "--width-cm", "8", "--width-inches", "3"],
        ["a.jpg", "--width-cm", "nan"],
        ["a.jpg", "--height-cm", "-1"],
        ["a.jpg", "--paper", "A4", "--height-cm", "8"],
        ["a.jpg", "--paper", "A9"],
        ["a.jpg", "--paper", "A4", "--config", "target_width_inches=8"],
        ["a.jpg", "--landscape"],
        ["a.jpg", "--factor", "17"],
        ["a.jpg", "--factor", "2.5", "--method", "imagen"],
        ["a.jpg", "--quality", "0"],
        ["a.jpg", "--format", "bmp"],
        ["a.jpg", "--dpi", "0"],
        ["a.jpg", "--factor", "much"],
        ["a.jpg", "--factor", "nan"],
        ["a.jpg", "--config", "face_strength=1e999"],
        ["a.jpg", "--config", 'upscale_model="\\ud800"'],
        ["a.jpg", "--method", "magic"],
        [],
    ],
)
def test_wrong_usage_starts_nothing(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments, ["/this/daemon/does/not/exist"])
    assert left.value.code == exits.USAGE


@pytest.mark.parametrize("name", ["out.png", "out", "many.png", "many.JPEG"])
def test_several_pictures_into_one_file_is_wrong_usage(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / name
    if name.startswith("out"):
        file.write_bytes(b"")
    with pytest.raises(SystemExit) as left:
        main(["a.jpg", "b.jpg", "-o", str(file)], [])
    assert left.value.code == exits.USAGE
    assert f"{file} " in capsys.readouterr().err


def test_a_folder_may_have_the_name_of_a_picture(daemon: list[str], tmp_path: Path) -> None:
    (tmp_path / "many.png").mkdir()
    for output in ("many.png", "new.png/"):
        assert run(daemon, "a.jpg", "b.jpg", "-o", f"{tmp_path}/{output}") == exits.OK


def test_a_folder_among_the_pictures_fails_alone(
    daemon: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--method", "flux", "-s", "2.5", "--config", 'prompt="of my own"')
    assert run(daemon, tmp_path, "b.jpg", "-o", "out/", *options) == exits.FAILED
    captured = capsys.readouterr()
    assert captured.err == (
        f"{tmp_path}: it is a folder: run `upscaled batch {tmp_path} -o out/ --method flux "
        "--factor 2.5 --config 'prompt=\"of my own\"'`\n"
    )
    assert captured.out.startswith("b.jpg 640x448")
