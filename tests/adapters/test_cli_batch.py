"""`upscaled batch`, `jobs`, and the pipes that the shell's README shows."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nearest_engine import environment
from upscaled_cli import exits
from upscaled_cli.batch import main as batch
from upscaled_cli.jobs import main as jobs
from upscaled_cli.record import NAME

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 120
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

# Copies inputs to outputs, fails if the picture says so, and records what it was sent.
DAEMON = """
import json, os, shutil, sys
with open(sys.argv[1], "a") as sent:
    for line in sys.stdin:
        sent.write(line)
        job = json.loads(line)
        ended = {"type": "result", "job_id": job["job_id"], "status": "completed"}
        if "broken" in job["config"]["image_path"]:
            ended = {"type": "error", "job_id": job["job_id"], "error": "it is broken"}
        elif "deadly" in job["config"]["image_path"]:
            sys.exit(3)
        else:
            shutil.copyfile(job["config"]["image_path"], job["config"]["output_path"])
        if "edited" in job["config"]["image_path"]:
            with open(job["config"]["image_path"], "w") as picture:
                picture.write("edited while it was upscaled")
            os.utime(job["config"]["image_path"], (1, 1))
        print(json.dumps(ended), flush=True)
"""


class Folder:
    """A folder of pictures, and the daemon that upscales it."""

    def __init__(self, path: Path) -> None:
        self._daemon = path / "daemon.py"
        self._daemon.write_text(DAEMON)
        self._sent = path / "sent.jsonl"
        self.photos = path / "photos"
        self.large = path / "large"

    def add(self, *names: str) -> None:
        for name in names:
            (self.photos / name).parent.mkdir(parents=True, exist_ok=True)
            (self.photos / name).write_bytes(os.fsencode(name))

    def batch(self, *options: str) -> int:
        """The exit status."""
        daemon = [sys.executable, str(self._daemon), str(self._sent)]
        return batch([str(self.photos), "-o", str(self.large), *options], daemon)

    def sent(self) -> list[str]:
        """Names of the pictures sent since the last call."""
        if not self._sent.exists():
            return []
        lines = self._sent.read_text().splitlines()
        self._sent.unlink()
        paths = [Path(json.loads(line)["config"]["image_path"]) for line in lines]
        return [str(path.relative_to(self.photos)) for path in paths]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_batch_keeps_the_folders_and_continues(folder: Folder, capsys: Any) -> None:
    folder.add("a.jpg", "holiday/b.PNG", "notes.txt")
    assert folder.batch() == exits.OK
    assert folder.sent() == ["a.jpg", "holiday/b.PNG"]
    assert (folder.large / "holiday" / "b.png").read_text() == "holiday/b.PNG"
    assert capsys.readouterr().out.startswith("2 upscaled, 0 done before, 0 failed; 0:")
    folder.add("c.webp")
    assert folder.batch() == exits.OK
    assert folder.sent() == ["c.webp"]
    assert capsys.readouterr().out.startswith("1 upscaled, 2 done before, 0 failed; ")
    for name, made_at in (("a", "2020-02-01 08:30"), ("holiday/b", "2020-02-03 21:05")):
        then = datetime.fromisoformat(made_at).timestamp()
        os.utime(folder.large / f"{name}.png", (then, then))
        picture = next(folder.photos.glob(f"{name}.*"))
        os.utime(picture, (then - 1, then - 1))
    assert folder.batch() == exits.OK
    assert folder.sent() == []
    output = capsys.readouterr()
    assert output.out == "0 upscaled, 3 done before, 0 failed\n"
    assert output.err.startswith("3 of 3 pictures were done before, from 2020-02-01 08:30 to 20")


def test_a_batch_ends_with_its_time_and_its_rate(folder: Folder, capsys: Any) -> None:
    folder.add("a.jpg", "broken.jpg")
    assert folder.batch() == exits.FAILED
    summary = r"1 upscaled, 0 done before, 1 failed; \d+:\d\d, [\d.e+]+ pictures per minute\n"
    assert re.fullmatch(summary, capsys.readouterr().out)


def test_a_picture_that_has_changed_is_done_again_and_force_does_all(folder: Folder) -> None:
    folder.add("a.jpg", "b.jpg")
    folder.batch()
    folder.sent()
    done = (folder.large / "a.png").stat().st_mtime
    os.utime(folder.photos / "a.jpg", (done + 10, done + 10))
    folder.batch()
    assert folder.sent() == ["a.jpg"]
    folder.batch("--force")
    assert folder.sent() == ["a.jpg", "b.jpg"]


def test_a_picture_that_an_older_file_has_replaced_is_done_again(folder: Folder) -> None:
    folder.add("a.jpg", "b.jpg", "c.jpg")
    folder.batch()
    folder.sent()
    # As `cp -p`, `rsync -t` and `unzip` do: a file keeps its time. The third is the same again.
    for name, content in (("a", "another picture"), ("b", "x.jpg"), ("c", "c.jpg")):
        (folder.photos / f"{name}.jpg").write_text(content)
        os.utime(folder.photos / f"{name}.jpg", (1, 1))
    folder.batch()
    assert folder.sent() == ["a.jpg", "b.jpg"]
    assert (folder.large / "b.png").read_text() == "x.jpg"
    folder.batch()
    assert folder.sent() == []


def test_a_picture_that_was_edited_while_it_was_upscaled_is_done_again(folder: Folder) -> None:
    folder.add("edited.jpg")
    folder.batch()
    folder.batch()
    assert folder.sent() == ["edited.jpg", "edited.jpg"]
    assert (folder.large / "edited.png").read_text() == "edited while it was upscaled"


def test_outputs_of_a_batch_without_stamps_are_still_done(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.batch()
    record = folder.large / NAME
    entries = [json.loads(line) for line in record.read_text().splitlines()]
    for entry in entries:
        entry.pop("size", None)
    record.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    folder.sent()
    folder.batch()
    assert folder.sent() == []


def test_a_failed_picture_is_named_and_tried_again_next_time(folder: Folder, capsys: Any) -> None:
    folder.add("a.jpg", "broken.jpg")
    assert folder.batch() == exits.FAILED
    output = capsys.readouterr()
    assert output.out.startswith("1 upscaled, 0 done before, 1 failed;")
    assert output.err == "broken.jpg: it is broken\n"
    folder.sent()
    assert folder.batch() == exits.FAILED
    assert folder.sent() == ["broken.jpg"]


def test_a_batch_whose_daemon_exits_says_what_is_left(folder: Folder, capsys: Any) -> None:
    folder.add("a.jpg", "deadly.jpg", "e.jpg")
    assert folder.batch() == exits.FAILED
    output = capsys.readouterr()
    assert "1 upscaled, 0 done before, 0 failed, 2 left: run it again to continue" in output.out
    assert "the daemon ended with status 3" in output.err


def test_more_pictures_than_a_daemon_is_given_at_once_are_all_done(folder: Folder) -> None:
    folder.add(*(f"{number}.png" for number in range(200)))
    assert folder.batch() == exits.OK
    assert len(folder.sent()) == 200


def test_the_output_folder_may_lie_in_the_input_folder(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.large = folder.photos / "large"
    folder.batch()
    folder.sent()
    folder.batch("--force")
    assert folder.sent() == ["a.jpg"]


def test_what_cannot_be_read_or_written_fails_alone(folder: Folder, capsys: Any) -> None:
    sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr] # as ever
    folder.add("a.jpg", "blocked/b.jpg")
    folder.large.mkdir()
    (folder.large / "blocked").touch()
    assert folder.batch() == exits.FAILED
    assert folder.sent() == ["a.jpg"]
    output = capsys.readouterr()
    assert output.out.startswith("1 upscaled, 0 done before, 1 failed;")
    taken = folder.large / "blocked"
    assert f"blocked/b.jpg: {taken}: there is a file of this name\n" in output.err


def test_a_file_name_that_is_not_utf_8_is_upscaled_as_any(folder: Folder) -> None:
    folder.add("caf\udce9.jpg")
    assert folder.batch() == exits.OK
    assert folder.sent() == ["caf\udce9.jpg"]


def test_a_folder_that_cannot_be_read_is_a_failure(
    folder: Folder, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add("a.jpg", "secret/b.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # as for a user who is not root
        if str(path).endswith("secret"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert folder.batch() == exits.FAILED
    assert folder.sent() == ["a.jpg"]
    output = capsys.readouterr()
    assert output.out.startswith("1 upscaled, 0 done before, 1 failed;")
    assert output.err == f"{folder.photos}/secret: it cannot be read: Permission denied\n"


def test_a_batch_has_no_stdout_for_its_pictures(folder: Folder, capsys: Any) -> None:
    folder.photos.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as refused:
        batch([str(folder.photos), "-o", "-"])
    assert refused.value.code == exits.USAGE
    assert "-o - is for one picture" in capsys.readouterr().err


def test_a_batch_with_a_model_that_does_not_exist_is_wrong_usage(
    folder: Folder, capsys: Any
) -> None:
    folder.photos.mkdir(exist_ok=True)
    with pytest.raises(SystemExit) as refused:
        batch([str(folder.photos), "-o", str(folder.large), "--model", "none"])
    assert refused.value.code == exits.USAGE
    assert "no model is called none" in capsys.readouterr().err


def test_a_batch_of_no_folder_is_wrong_usage(folder: Folder, capsys: Any) -> None:
    with pytest.raises(SystemExit) as refused:
        folder.batch()
    assert refused.value.code == exits.USAGE
    assert "is no folder" in capsys.readouterr().err


def test_jobs_writes_lines_that_the_daemon_takes(capsys: Any) -> None:
    config = ("--config", "face_strength=0.3")
    assert jobs(["photos/a.jpg", "é.png", "-o", "large", *config]) == exits.OK
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "job_id": "photos/a.jpg",
        "method": "esrgan",
        "config": {
            "face_strength": 0.3,
            "image_path": str(Path.cwd() / "photos" / "a.jpg"),
            "output_path": str(Path.cwd() / "large" / "a.png"),
        },
    }
    assert second["job_id"] == "é.png"
    long_name = f"{'x' * 200}.png"
    assert jobs([long_name]) == exits.OK
    assert len(json.loads(capsys.readouterr().out)["job_id"]) == 128


def test_jobs_of_one_name_are_left_to_the_daemon_which_numbers_them(capsys: Any) -> None:
    assert jobs(["one/a.png", "two/a.png"]) == exits.OK
    configs = [json.loads(line)["config"] for line in capsys.readouterr().out.splitlines()]
    assert [list(config) for config in configs] == [["image_path"], ["image_path"]]


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["a.png", "a.png"], "a.png is given twice"),
        (["a.png", "a.png", "-o", "large"], "same output in large"),
        (["a.png", "a.jpg", "-o", "large"], "same output in large"),
        (["one/a.png", "two/a.png", "-o", "large"], "same output in large"),
        (["a.png", "-o", ""], "-o is empty"),
        (["a.png", "b.png", "--config", "output_path=c.png"], "for one picture"),
        (["a.png", "-o", "large", "--config", "output_base64=true"], "exclude each other"),
        ([f"{folder}/{'x' * 128}.png" for folder in ("one", "two")], "the same 128 characters"),
    ],
)
def test_jobs_that_would_be_taken_for_one_another_are_refused(
    names: list[str], sentence: str, capsys: Any
) -> None:
    with pytest.raises(SystemExit) as refused:
        jobs(names)
    assert refused.value.code == exits.USAGE
    output = capsys.readouterr()
    assert sentence in output.err
    assert output.out == ""  # `upscaled run` would do the jobs before the refused one


def test_jobs_know_the_formats_and_leave_the_models_to_the_daemon_of_another_machine(
    capsysbinary: Any,
) -> None:
    with pytest.raises(SystemExit) as refused:
        jobs(["a.png", "--config", "output_path=b.gif"])
    assert refused.value.code == exits.USAGE
    assert b".gif is not written here" in capsysbinary.readouterr().err
    assert jobs(["a.png", "--model", "mine"]) == exits.OK
    assert b'"model":"mine"' in capsysbinary.readouterr().out


def test_a_job_line_is_utf_8_whatever_the_locale_is() -> None:
    names = ["é.png", os.fsdecode(b"caf\xe9.png"), "z.png"]
    command = [sys.executable, "-m", "upscaled_cli", "jobs", *names]
    env = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert done.returncode == exits.OK
    jobs = [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]
    assert [job["job_id"] for job in jobs] == ["é.png", "caf\N{REPLACEMENT CHARACTER}.png", "z.png"]
    # A path is bytes: each that is no UTF-8 has an escape of its own.
    assert jobs[1]["config"]["image_path"].endswith("/caf\udce9.png")


SHELL_README = (ROOT / "adapters" / "shell" / "README.md").read_text("utf-8")


# `make docs-test` runs the same lines with torch.
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
def test_the_readmes_pipes_upscale_a_folder(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (16, 12), (number, 90, 90)).save(tmp_path / "photos" / f"{number} x.jpg")
    (tmp_path / "photos" / "broken.jpg").write_text("no picture")
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```$", SHELL_README, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    said = [
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env=environment(PATH=PATH),
            capture_output=True,
            timeout=TIMEOUT_S,
            text=True,
            check=False,
        )
        for block in blocks
    ]
    assert [done.returncode for done in said] == [0, 0], [done.stderr for done in said]
    assert "some failed: 1\n" in said[0].stdout
    assert "photos/broken.jpg: " in said[0].stdout
    assert re.search(r"^photos/0 x\.jpg\t32\t24\t\d+\.\d+$", said[0].stdout, re.MULTILINE)
    assert "photos/1 x.jpg is done\n" in said[1].stdout
    assert (tmp_path / "large" / "1 x.png").is_file()
