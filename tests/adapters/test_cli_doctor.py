"""`upscaled doctor` on a sound installation, and on one that is broken in many ways at once.

One test runs a real daemon. The others give the command a daemon of their own, which only speaks.
"""

from __future__ import annotations

import errno
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from imagen_host import NOBODY
from tiny_faces import face_model
from upscaled_cli import exits
from upscaled_cli.doctor import main
from upscaled_cli.doctor.weights import faces
from upscaled_models.catalog import Catalog, bundled_weights_dir
from upscaled_models.registry import is_installed

SILENT = [sys.executable, "-c", ""]  # ends at once

# Answers every job: one that names a model with an error.
SPEAKING = [
    sys.executable,
    "-c",
    """
import json, sys
def say(**fields):
    print(json.dumps(fields), flush=True)
say(type="status", message="ready", methods=["esrgan"], unavailable={"flux": "flux needs luck"})
for line in sys.stdin:
    job = json.loads(line)
    if job.get("type") == "health":
        say(type="health", status="ok", gpu_name="A Card", gpu_memory_free=7.25, queue_size=0)
        continue
    model = job["config"].get("model")
    if model:
        say(type="error", job_id=job["job_id"], error=model + " is spoilt", code="model_corrupt")
    else:
        say(type="result", job_id=job["job_id"], processing_time=0.1, precision="fp16")
""",
]


@pytest.fixture(autouse=True)
def _without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)


def report_on(
    folder: Path, capsys: pytest.CaptureFixture[str], daemon: list[str] = SPEAKING
) -> dict[str, Any]:
    main(["--json", "--model-dir", str(folder)], daemon)
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def texts(report: dict[str, Any], name: str, state: str) -> list[str]:
    found = [one for one in report["findings"] if (one["name"], one["state"]) == (name, state)]
    return [f"{one['text']} -> {one['fix']}" for one in found]


def put(path: Path, data: bytes = b"cut short") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_sound_installation_upscales_a_picture_also_by_a_model_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_CACHE_DIR", str(tmp_path))
    put(tmp_path / "upscale_models" / "broken.pth", b"")
    own = tmp_path / "upscale_models" / "mine.safetensors"
    shutil.copy(bundled_weights_dir() / "compact-x2.safetensors", own)
    assert main([]) == exits.OK
    said = capsys.readouterr().out
    assert "ok       torch        torch " in said
    assert "picture      upscaled in" in said
    assert "ok       own model    mine.safetensors: has upscaled a picture" in said
    assert "note     own model    broken.pth is not usable: it is empty" in said
    assert f"environment  MODEL_CACHE_DIR={tmp_path}" in said
    assert "esrgan can run" in said
    assert "[dev]" not in said
    assert said.endswith("\n0 problems\n")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The problems of an installation with a damaged model, bad libraries, bad settings."""
    folder = tmp_path_factory.mktemp("broken")
    put(folder / "upscale_models" / "4x-UltraSharp.pth")
    put(folder / "torch.py", b"raise ImportError('torch is broken')")
    put(folder / "pyvips.py", b"import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    file = put(folder / "file")
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as output:
        patch.setenv("OUTPUT_DIR", str(file))
        patch.setenv("DEFAULT_DPI", "many")
        patch.setenv("PYTHONPATH", str(folder))
        said: list[str] = []
        output.setattr("builtins.print", lambda *words, **_: said.append(" ".join(words)))
        assert main(["--json", "--model-dir", str(folder)], SILENT) == exits.FAILED
    report = json.loads("".join(said))
    assert report["ok"] is False
    return [finding for finding in report["findings"] if finding["state"] == "problem"]


@pytest.mark.parametrize(
    ("name", "text", "fix"),
    [
        ("torch", "torch is broken", "pip install --force-reinstall --no-deps torch"),
        ("libvips", "killed by signal 9", "pip install --force-reinstall --no-deps pyvips"),
        ("models", "4x-UltraSharp", "upscaled models pull 4x-UltraSharp"),
        ("output", "cannot be written", "OUTPUT_DIR"),
        ("environment", "DEFAULT_DPI is no number: many", "DEFAULT_DPI"),
        ("picture", "none could be upscaled", "above"),
    ],
)
def test_each_problem_is_named_and_says_how_to_mend_it(
    broken: list[dict[str, Any]], name: str, text: str, fix: str
) -> None:
    problems = [problem for problem in broken if problem["name"] == name]
    assert any(text in one["text"] and fix in one["fix"] for one in problems), broken


def test_what_is_sound_beside_the_problems_is_no_problem(broken: list[dict[str, Any]]) -> None:
    # spandrel needs torch.
    wanted = {"torch", "spandrel", "libvips", "models", "output", "environment", "picture"}
    assert {problem["name"] for problem in broken} == wanted


def test_flux_is_reported_file_by_file_with_the_paths_that_are_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformer = put(tmp_path / "diffusion_models" / "mine.gguf")
    autoencoder = put(tmp_path / "vae" / "ae.safetensors")
    report = report_on(tmp_path, capsys)
    assert texts(report, "flux", "ok") == [f"transformer: {transformer} -> None"]
    (damaged,) = texts(report, "flux", "problem")
    assert f"{autoencoder} is not of the published size" in damaged
    missing = texts(report, "flux", "note")
    encoder = tmp_path / "clip" / "clip_l.safetensors"
    wanted = f"CLIP text encoder: missing, looked for as {encoder} -> upscaled models pull clip_l"
    assert wanted in missing
    assert len(missing) == 5


@pytest.mark.skipif(not is_installed("face"), reason="needs the faces extra")
def test_without_a_model_for_faces_the_command_that_fetches_one_is_told(tmp_path: Path) -> None:
    (found,) = faces(Catalog.load(), tmp_path)
    assert (found.state, found.fix) == ("note", "upscaled models pull GFPGANv1.4")
    face_model(tmp_path)
    assert not list(faces(Catalog.load(), tmp_path))


@pytest.mark.skipif(not is_installed("imagen"), reason="needs the imagen extra")
def test_an_account_is_reported_without_its_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(texts(report_on(tmp_path, capsys), "imagen", "note")) == 2  # no project, no token
    monkeypatch.setenv("GCP_PROJECT_ID", "my-project")
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "canary")
    report = report_on(tmp_path, capsys)
    project, credentials = texts(report, "imagen", "ok")
    assert "project my-project, region us-central1" in project
    assert "the token in GOOGLE_OAUTH_ACCESS_TOKEN" in credentials
    assert "canary" not in json.dumps(report)
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    (wrong,) = texts(report_on(tmp_path, capsys), "imagen", "problem")
    assert str(tmp_path / "gone.json") in wrong


def test_what_the_daemon_says_is_passed_on_and_a_large_folder_is_not_tried_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        put(tmp_path / "upscale_models" / f"own{number:02}.pth")
    report = report_on(tmp_path, capsys)
    assert report["ok"]
    assert texts(report, "device", "ok") == ["A Card, 7.2 GB free, fp16 -> None"]
    assert texts(report, "methods", "note") == ["flux cannot run: flux needs luck -> None"]
    *tried, untried = texts(report, "own model", "note")
    assert tried[0].startswith("own00.pth is spoilt")
    assert len(tried) == 10
    assert "2 more were not tried, from own10.pth on" in untried


def test_on_a_terminal_it_shows_its_activity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["--model-dir", str(tmp_path)], SPEAKING)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["--model-dir", str(tmp_path)], SPEAKING)
    assert "starting a daemon, which loads the libraries" in capsys.readouterr().err


def test_a_model_folder_that_cannot_be_looked_into_ends_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A name that is too long stands for a folder of another user, because root may read those.
    folder = tmp_path / ("x" * 300)
    main(["--model-dir", str(folder)], SPEAKING)
    assert f"models       {folder}: none pulled" in capsys.readouterr().out


def test_a_machine_without_a_folder_for_temporary_files_ends_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)
    report = report_on(tmp_path, capsys)
    (text,) = texts(report, "temporary", "problem")
    assert "No usable temporary directory found in ['/tmp'] -> set TMPDIR" in text
    assert texts(report, "methods", "ok")


def test_a_package_that_was_built_without_gcc_is_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled_cli.doctor.installation.LIBRARY", tmp_path / "missing.so")
    (text,) = texts(report_on(tmp_path, capsys), "compiled", "note")
    assert text.endswith("-> install GCC, then upscaled once more")


def test_doctor_refuses_options_it_does_not_know() -> None:
    with pytest.raises(SystemExit) as left:
        main(["--cure"])
    assert left.value.code == exits.USAGE
