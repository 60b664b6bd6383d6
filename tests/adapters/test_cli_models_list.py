"""`upscaled models list` and `verify`: what is installed, and if its checksums are right."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from model_server import DATA, Server, leave_part, model, target_in
from upscaled_cli import exits
from upscaled_cli.models import main
from upscaled_models.catalog import MODEL_FOLDERS, Catalog, Model

BUNDLED = Path(__file__).parents[2] / "models" / "weights" / "compact-x4.safetensors"


def test_an_unknown_name_is_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["pull", "nothing", "--model-dir", str(tmp_path)])
    assert left.value.code == exits.USAGE
    assert "no model is called nothing" in capsys.readouterr().err


def listed(folder: Path, *models: Model, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["list", "--json", "--model-dir", str(folder)], Catalog(models)) == exits.OK
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_the_list_says_what_is_installed(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = model(server.url("a"))
    assert listed(tmp_path, entry, capsys=capsys)["mine"]["installed"] == "no"
    leave_part(tmp_path, b"half")
    assert listed(tmp_path, entry, capsys=capsys)["mine"]["installed"] == "partial"
    target_in(tmp_path).write_bytes(DATA[:-1])
    assert listed(tmp_path, entry, capsys=capsys)["mine"]["installed"] == "damaged"
    target_in(tmp_path).write_bytes(DATA)
    (tmp_path / "upscale_models" / "own.safetensors").write_bytes(b"own")
    (tmp_path / "facerestore_models").mkdir()
    (tmp_path / "facerestore_models" / "own-faces.pth").write_bytes(b"own")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "own-flux.gguf").write_bytes(b"own")
    (tmp_path / "upscale_models" / "gone.safetensors").symlink_to("nowhere")
    (tmp_path / "upscale_models" / "folder.pth").mkdir()
    rows = listed(tmp_path, entry, capsys=capsys)
    assert rows["mine"]["installed"] == "yes"
    assert rows["mine"]["commercial_use"] is False
    assert (rows["own"]["installed"], rows["own"]["method"]) == ("own", "esrgan")
    assert (rows["own-faces"]["installed"], rows["own-faces"]["method"]) == ("own", "face")
    assert (rows["own-flux"]["installed"], rows["own-flux"]["method"]) == ("own", "flux")
    assert not {"gone", "folder"} & set(rows)


def test_a_model_folder_that_cannot_be_read_counts_as_empty_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / ("m" * 300)  # a name that is too long fails for root too
    for action, status in (("list", exits.OK), ("verify", exits.FAILED)):
        assert main([action, "--model-dir", str(folder)]) == status
        said = capsys.readouterr()
        assert "compact-x4" in said.out
        assert f"{folder} cannot be read and counts as empty" in said.err


def test_the_list_for_people_names_every_model_of_the_catalogue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--model-dir", str(tmp_path)]) == exits.OK
    said = capsys.readouterr().out
    for entry in Catalog.load():
        assert re.search(
            rf"^{re.escape(entry.name)} .*{re.escape(entry.licence)}", said, re.MULTILINE
        )
    assert "CC-BY-NC-SA-4.0 (non-commercial)" in said


def verified(folder: Path, *names: str, entry: Model, capsys: Any) -> tuple[int, list[Any]]:
    arguments = ["verify", *names, "--json", "--model-dir", str(folder)]
    status = main(arguments, Catalog([entry]))
    return status, json.loads(capsys.readouterr().out)


def test_verify_distinguishes_right_wrong_unpublished_and_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = model("http://127.0.0.1/")
    assert verified(tmp_path, entry=entry, capsys=capsys) == (exits.OK, [])
    status, rows = verified(tmp_path, "mine", entry=entry, capsys=capsys)
    assert (status, rows[0]["outcome"]) == (exits.FAILED, "missing")

    target_in(tmp_path).parent.mkdir()
    target_in(tmp_path).write_bytes(DATA)
    status, rows = verified(tmp_path, entry=entry, capsys=capsys)
    assert (status, rows[0]["outcome"]) == (exits.OK, "ok")
    unpublished = model("http://127.0.0.1/", sha256=None)
    status, rows = verified(tmp_path, entry=unpublished, capsys=capsys)
    assert (status, rows[0]["outcome"]) == (exits.OK, "unpublished")
    assert rows[0]["sha256"] == hashlib.sha256(DATA).hexdigest()

    target_in(tmp_path).write_bytes(DATA[:-1] + b"x")
    status, rows = verified(tmp_path, entry=entry, capsys=capsys)
    assert (status, rows[0]["outcome"]) == (exits.FAILED, "wrong")


def test_verify_reads_files_of_the_users_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / MODEL_FOLDERS["esrgan"] / "mine.safetensors"
    path.parent.mkdir()
    path.write_bytes(BUNDLED.read_bytes())
    assert main(["verify", "mine", "--model-dir", str(tmp_path)]) == exits.OK
    assert capsys.readouterr().out.startswith("mine: your own, it can be read; it has ")
    path.write_bytes(BUNDLED.read_bytes()[:-1000])
    assert main(["verify", "--model-dir", str(tmp_path)]) == exits.FAILED
    assert "mine: mine.safetensors is not usable: " in capsys.readouterr().out


def test_a_misspelt_name_is_answered_with_the_closest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["pull", "RealESRGAN_x4plu", "--model-dir", str(tmp_path)])
    assert refused.value.code == exits.USAGE
    assert "did you mean RealESRGAN_x4plus?" in capsys.readouterr().err
