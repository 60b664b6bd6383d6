"""`upscaled models add`: what is taken, what is refused, and that no other file is replaced."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from model_server import DATA, Server, model, target_in
from tiny_faces import restoreformer
from tiny_networks import compact, save
from upscaled_cli import exits
from upscaled_cli.models import main
from upscaled_models.catalog import Catalog
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.errors import JobError


class RunsCode:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/nonexistent/pwned",)


def add(source: str | Path, folder: Path, *options: str, catalog: Catalog | None = None) -> int:
    arguments = ["add", str(source), "--model-dir", str(folder), *options]
    return main(arguments, catalog, pauses_s=())


def weights(folder: Path, name: str = "mine.pth", seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    return save(compact(seed=seed), folder / name)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_is_checked_copied_and_reported_with_the_line_to_use_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path / "downloads", "mine.PTH")
    folder = tmp_path / "models"
    assert add(path, folder) == exits.OK
    said = capsys.readouterr().out
    assert "mine: RealESRGAN Compact, 4x, RGB" in said
    assert "licence: the file names none" in said
    assert "upscaled upscale photo.jpg --model mine" in said
    job = json.loads(next(line for line in said.splitlines() if line.startswith("  {")))
    added = Catalog.load().locate(job["config"]["model"], folder)
    assert added == folder / "upscale_models" / "mine.pth"
    assert added.read_bytes() == path.read_bytes()

    # Once more, and once more under another name: it is there.
    assert add(path, folder) == add(path, folder, "--name", "other") == exits.OK
    assert capsys.readouterr().out.count("(was there already)") == 2
    assert files_in(folder) == ["upscale_models/mine.pth"]


def test_a_model_of_scale_1_is_reported_as_a_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(compact(scale=1), tmp_path / "clean.safetensors")
    assert add(path, tmp_path / "models") == exits.OK
    said = capsys.readouterr().out
    assert "clean: RealESRGAN Compact, 1x, RGB" in said
    assert "upscaled upscale photo.jpg --pre-model clean" in said
    assert '"pre_model":"clean"' in said


def test_a_model_for_faces_goes_to_the_folder_of_its_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(restoreformer(), tmp_path / "myface.pth")
    assert add(path, tmp_path / "models") == exits.OK
    said = capsys.readouterr().out
    assert "myface: RestoreFormer, restores faces" in said
    assert '"method":"face"' in said
    assert files_in(tmp_path / "models") == ["facerestore_models/myface.pth"]


def test_no_other_file_is_replaced_or_hidden_by_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "models"
    first = weights(tmp_path / "a", "mine.safetensors")
    second = weights(tmp_path / "b", "mine.pth", seed=1)
    assert add(first, folder) == exits.OK
    assert add(second, folder) == exits.FAILED
    assert "mine.safetensors is another model" in capsys.readouterr().err
    assert add(second, folder, "--name", "4x-UltraSharp") == exits.FAILED
    assert "the catalogue calls another file 4x-UltraSharp" in capsys.readouterr().err
    assert add(second, folder, "--name", "second.pth") == exits.OK
    assert files_in(folder) == ["upscale_models/mine.safetensors", "upscale_models/second.pth"]
    assert (folder / "upscale_models/mine.safetensors").read_bytes() == first.read_bytes()


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("4x_inside.pth", b"weights")


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("4x.zip", zipped, "it is a ZIP archive: unpack it, and give the file 4x_inside.pth"),
        ("4x.pth", lambda path: path.write_text("<!DOCTYPE html><html>"), "an HTML page"),
        ("4x.pth", lambda path: torch.save(RunsCode(), path), "would run code"),
        ("4x.onnx", lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch"), "an ONNX model"),
        ("4x.pth", lambda path: torch.save({"a": torch.ones(1)}, path), "architecture"),
    ],
    ids=["zip", "page", "code", "onnx", "unknown"],
)
def test_what_the_engine_refuses_is_refused_in_its_words_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, write: Any, told: str
) -> None:
    path = tmp_path / name
    write(path)
    with pytest.raises(JobError) as refused:
        load_descriptor(path)
    assert add(path, tmp_path / "models") == exits.FAILED
    said = capsys.readouterr().err
    assert said == refused.value.message + "\n"
    assert told in said
    assert not (tmp_path / "models").exists()


def test_a_file_of_the_catalogue_that_was_fetched_by_hand_goes_to_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "download (1)"
    path.write_bytes(DATA)
    catalog = Catalog([model("https://example.com/mine.pth")])
    assert add(path, tmp_path / "models", catalog=catalog) == exits.OK
    said = capsys.readouterr().out
    assert "mine: ESRGAN, of the catalogue (checksum is right)" in said
    assert "CC-BY-NC-SA-4.0: NON-COMMERCIAL USE ONLY" in said
    target = target_in(tmp_path / "models")
    assert target.read_bytes() == DATA
    target.write_bytes(DATA[:-1])
    assert add(path, tmp_path / "models", catalog=catalog) == exits.FAILED
    assert "is damaged: delete it" in capsys.readouterr().err


@pytest.mark.parametrize("changed", [False, True], ids=["same file", "another file"])
def test_a_link_is_fetched_and_a_later_run_continues_after_the_cut(
    server: Server, tmp_path: Path, changed: bool
) -> None:
    old, new = (weights(tmp_path / str(seed), seed=seed).read_bytes() for seed in (0, 1))
    server.serve("mine.pth", data=old, cuts=[1000])
    folder, url = tmp_path / "models", server.url("mine.pth")
    assert add(url, folder) == exits.FAILED
    assert files_in(folder) == ["incoming/mine.pth.part"]
    if changed:
        server.serve("mine.pth", data=new, etag='"two"')
    assert add(url, folder) == exits.OK
    assert files_in(folder) == ["upscale_models/mine.pth"]
    expected = new if changed else old
    assert (folder / "upscale_models" / "mine.pth").read_bytes() == expected
    assert server.ranges_asked() == [None, "bytes=1000-"]
    assert server.requests[1][1]["if-range"] == '"one"'


def test_an_earlier_run_of_another_link_is_thrown_away(server: Server, tmp_path: Path) -> None:
    old, new = (weights(tmp_path / str(seed), seed=seed).read_bytes() for seed in (0, 1))
    server.serve("a/mine.pth", data=old, cuts=[1000])
    server.serve("b/mine.pth", data=new)
    assert add(server.url("a/mine.pth"), tmp_path / "models") == exits.FAILED
    assert add(server.url("b/mine.pth"), tmp_path / "models") == exits.OK
    assert server.ranges_asked() == [None, None]
    assert (tmp_path / "models/upscale_models/mine.pth").read_bytes() == new


def test_a_link_to_a_page_is_reported_as_such_and_nothing_of_it_stays(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.serve("blob/main/mine.pth", data=b"<!DOCTYPE html><html><body>log in</body></html>")
    assert add(server.url("blob/main/mine.pth"), tmp_path / "models") == exits.FAILED
    said = capsys.readouterr().err
    assert "mine.pth is not usable: it is an HTML page" in said
    assert f"try {server.url('resolve/main/mine.pth')}" in said
    assert files_in(tmp_path / "models") == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://example.com/mine.pth"], "only https:// links are fetched"),
        (["file:///etc/passwd"], "only https:// links are fetched"),
        (["https://example.com/download?id=7"], "give --name"),
        (["mine.pth", "--name", "../mine"], "cannot be a model's name"),
        (["mine.pth", "--name", ".pth"], "cannot be a model's name"),
        (["mine.pth", "--name", "x" * 201], "cannot be a model's name"),
    ],
)
def test_wrong_links_and_names_are_wrong_usage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["add", *arguments, "--model-dir", str(tmp_path / "models")])
    assert left.value.code == exits.USAGE
    assert told in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


def test_a_file_that_is_not_there_is_reported_and_a_name_of_the_catalogue_is_pulled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert add(tmp_path / "gone.pth", tmp_path / "models") == exits.FAILED
    assert "gone.pth: there is no such file" in capsys.readouterr().err
    assert add("4x-UltraSharp", tmp_path / "models") == exits.FAILED
    assert "`upscaled models pull 4x-UltraSharp` fetches it" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = weights(tmp_path / "downloads")
    (tmp_path / "models").write_text("a file, where a folder should be")
    assert add(path, tmp_path / "models") == exits.FAILED
    assert str(tmp_path / "models") in capsys.readouterr().err
