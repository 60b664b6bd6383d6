"""What `upscaled batch` takes from a folder, what it leaves out, and how it names the outputs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from upscaled_cli import exits
from upscaled_cli.batch import main as batch
from upscaled_cli.record import NAME

# Copies inputs to outputs; notes what it was sent.
DAEMON = """
import json, shutil, sys
with open(sys.argv[1], "a") as sent:
    for line in sys.stdin:
        sent.write(line)
        job = json.loads(line)
        shutil.copyfile(job["config"]["image_path"], job["config"]["output_path"])
        more = json.loads(sys.argv[2])
        print(json.dumps({"type": "result", "job_id": job["job_id"], **more}), flush=True)
"""

PNG = b"\x89PNG\r\n\x1a\n"
PSD = b"8BPS\0\x01"
MP4 = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2"
JPEG_2000 = b"\0\0\0\x0cjP  \r\n\x87\n"


class Folder:
    """Pictures, and the daemon that upscales them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._daemon = path / "daemon.py"
        self._daemon.write_text(DAEMON)
        self._sent = path / "sent.jsonl"
        self._capsys = capsys
        self.photos = path / "photos"
        self.large = path / "large"
        self.answer: dict[str, Any] = {}
        self.out = self.err = ""

    def add(self, *names: str, content: bytes = b"") -> None:
        for name in names:
            path = self.photos / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content or os.fsencode(name))

    def batch(self, *options: str) -> int:
        answer = json.dumps(self.answer)
        daemon = [sys.executable, str(self._daemon), str(self._sent), answer]
        status = batch([str(self.photos), "-o", str(self.large), *options], daemon)
        self.out, self.err = self._capsys.readouterr()
        return status

    def sent(self) -> list[str]:
        """Names of the pictures sent since the last call."""
        lines = self._sent.read_text().splitlines() if self._sent.exists() else []
        self._sent.unlink(missing_ok=True)
        paths = [Path(json.loads(line)["config"]["image_path"]) for line in lines]
        return [str(path.relative_to(self.photos.resolve())) for path in paths]

    def outputs(self) -> dict[str, str]:
        """What each output is a copy of."""
        files = (path for path in self.large.rglob("*") if path.is_file() and path.name != NAME)
        return {
            str(path.relative_to(self.large)): path.read_text(errors="replace") for path in files
        }


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


def test_pictures_are_known_by_their_content(folder: Folder) -> None:
    folder.add("a.jfif", "b.GIF", "c.jpe")
    folder.add("IMG_0001", "download.bin", "holiday.2024", content=PNG)
    assert folder.batch() == exits.OK
    assert folder.sent() == ["IMG_0001", "a.jfif", "b.GIF", "c.jpe", "download.bin", "holiday.2024"]
    # What follows the dot is cut off if it says a format.
    assert sorted(folder.outputs()) == [
        "IMG_0001.png",
        "a.png",
        "b.png",
        "c.png",
        "download.bin.png",
        "holiday.2024.png",
    ]
    assert folder.err == ""


def test_a_picture_of_a_kind_that_cannot_be_read_is_a_failure(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.add("b.psd", content=PSD)
    folder.add("c.jp2", content=JPEG_2000)
    assert folder.batch() == exits.FAILED
    assert folder.sent() == ["a.jpg"]
    assert "b.psd: it is PSD, which is not read here: convert it to" in folder.err
    assert "c.jp2: it is JPEG 2000, which is not read here" in folder.err
    assert folder.out.startswith("1 upscaled, 0 done before, 2 failed;")


def test_what_is_no_picture_of_the_users_is_left_out_counted_and_named(folder: Folder) -> None:
    folder.add("a.jpg", "._a.jpg", ".DS_Store", ".thumbnails/a.jpg", "notes.txt", "more.txt")
    folder.add("film.mp4", content=MP4)
    folder.add("random", content=b"\x01\xfe\x02\xfd" * 9)
    (folder.photos / "nothing").touch()
    folder.large = folder.photos / "large"
    folder.large.mkdir()
    assert folder.batch() == exits.OK
    assert folder.sent() == ["a.jpg"]
    assert set(folder.err.splitlines()) == {
        "left out 1: hidden folders: .thumbnails/",
        "left out 1: the output folder: large/",
        "left out 1: hidden files: .DS_Store",
        "left out 1: AppleDouble, which macOS writes beside a file: ._a.jpg",
        "left out 1: a video (MP4): film.mp4",
        "left out 2: plain text: more.txt, notes.txt",
        "left out 1: empty files: nothing",
        "left out 1: no picture of a known kind: random",
    }


def test_outputs_beside_their_picture_are_no_input(folder: Folder) -> None:
    folder.add("a.jpg", "a_esrgan_4x.png", "a_flux_2.5x-2.png", "lone_esrgan_4x.png")
    assert folder.batch() == exits.OK
    assert folder.sent() == ["a.jpg", "lone_esrgan_4x.png"]
    names = "a_esrgan_4x.png, a_flux_2.5x-2.png"
    assert folder.err == f"left out 2: outputs of a picture beside them: {names}\n"


def test_links_pipes_and_sockets_hold_nothing_up(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg")
    (folder.photos / "circle.jpg").symlink_to("circle.jpg")
    (folder.photos / "gone.jpg").symlink_to("nowhere")
    (folder.photos / "link.jpg").symlink_to("a.jpg")
    (folder.photos / "around").symlink_to(folder.photos)
    os.mkfifo(folder.photos / "pipe.jpg")
    os.mkfifo(folder.photos / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder.photos / "s"))
        assert folder.batch() == exits.FAILED
    assert folder.sent() == ["a.jpg", "link.jpg"]
    assert "circle.jpg: it cannot be read: Too many levels of symbolic links\n" in folder.err
    assert "gone.jpg: it cannot be read: the file that it links to is missing\n" in folder.err
    assert "left out 1: links to folders, which are not followed: around/\n" in folder.err
    assert "left out 3: no ordinary files: pipe, pipe.jpg, s\n" in folder.err


def test_an_output_folder_that_is_a_link_in_a_circle_is_reported(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.large.symlink_to(folder.large)
    assert folder.batch() == exits.FAILED
    assert "the output folder cannot be written" in folder.err


@pytest.mark.parametrize("names", [(), ("notes.txt", ".a.jpg")])
def test_a_folder_without_a_picture_is_a_failure(folder: Folder, names: tuple[str, ...]) -> None:
    folder.photos.mkdir()
    folder.add(*names)
    assert folder.batch() == exits.FAILED
    assert f"there is no picture in {folder.photos}\n" in folder.err
    assert folder.out == ""
    assert not folder.large.exists()


def test_pictures_of_one_name_get_numbers_which_stay(folder: Folder) -> None:
    folder.add("a.jpg", "a.png", "A.webp", "sub/a.png")
    assert folder.batch() == exits.OK
    expected = {"A.png": "A.webp", "a-2.png": "a.jpg", "a-3.png": "a.png"}
    assert folder.outputs() == {**expected, "sub/a.png": "sub/a.png"}
    assert "note on 2: named with a number" in folder.err
    assert "a.jpg -> a-2.png, a.png -> a-3.png" in folder.err
    folder.sent()
    # Which comes first in order, and is older than what is there.
    folder.add("a.avif")
    os.utime(folder.photos / "a.avif", (1, 1))
    assert folder.batch() == exits.OK
    assert folder.sent() == ["a.avif"]
    assert folder.outputs() == {**expected, "sub/a.png": "sub/a.png", "a-4.png": "a.avif"}


def test_a_file_that_is_no_output_is_never_replaced(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.large.mkdir()
    (folder.large / "a.png").write_text("mine")
    for _ in range(2):
        assert folder.batch("--force") == exits.OK
    assert folder.outputs() == {"a.png": "mine", "a-2.png": "a.jpg"}


def test_two_folders_may_share_an_output_folder(folder: Folder) -> None:
    folder.add("a.jpg", content=b"january")
    folder.batch()
    folder.photos = folder.photos.with_name("february")
    folder.add("a.jpg", content=b"february")
    os.utime(folder.photos / "a.jpg", (1, 1))
    assert folder.batch() == exits.OK
    assert folder.out.startswith("1 upscaled, 0 done before, 0 failed;")
    assert folder.outputs() == {"a.png": "january", "a-2.png": "february"}


def test_pictures_made_with_other_options_are_reported_and_kept(folder: Folder) -> None:
    folder.add("a.jpg")
    told = "note on 1: done before with other options: --force does it again: a.jpg\n"
    folder.batch("--factor", "2")
    folder.batch("--factor", "2")
    assert "note on" not in folder.err
    folder.sent()
    assert folder.batch("--factor", "4") == exits.OK
    assert folder.sent() == []
    assert folder.err.endswith(told)
    folder.batch("--factor", "4", "--force")
    assert folder.err == ""
    folder.batch("--factor", "4")
    assert "note on" not in folder.err


def test_another_format_is_another_output(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.batch()
    folder.batch("--format", "webp")
    assert sorted(folder.outputs()) == ["a.png", "a.webp"]


def test_a_record_that_is_broken_or_hostile_leads_nowhere(folder: Folder, tmp_path: Path) -> None:
    folder.add("a.jpg")
    folder.large.mkdir()
    lines: list[Any] = [
        {"input": "../photos/a.jpg", "format": "png", "output": path}
        for path in ("../stolen.png", str(tmp_path / "stolen.png"))
    ]
    lines += [[], {"input": ["x"], "format": "png", "output": "x"}]
    text = "\n".join(map(json.dumps, lines)) + '\n{"input": "../ph'
    (folder.large / NAME).write_text(text)
    for _ in range(2):
        assert folder.batch() == exits.OK
    assert folder.outputs() == {"a.png": "a.jpg"}
    assert not (tmp_path / "stolen.png").exists()


def test_what_the_daemon_has_to_say_of_pictures_is_passed_on(folder: Folder) -> None:
    folder.add(*(f"{number}.jpg" for number in range(9)))
    crop = {"direction": "vertical", "amount_px": 3}
    folder.answer = {"warnings": ["it has no colour profile"], "crop_info": crop}
    folder.batch("--width", "8", "--height", "9")
    names = "0.jpg, 1.jpg, 2.jpg and 6 more"
    assert folder.err.splitlines() == [
        f"note on 9: it has no colour profile: {names}",
        f"note on 9: larger than the target on one side, which --crop center cuts: {names}",
    ]


def test_pictures_that_lie_the_other_way_than_the_paper_are_named(folder: Folder) -> None:
    folder.add("wide.jpg")
    folder.answer = {"input_size": {"width": 300, "height": 200}}
    folder.batch("--paper", "A4", "--crop", "center")
    told = "the picture is wider than high, and the paper is not: add --landscape"
    assert folder.err == f"note on 1: {told}: wide.jpg\n"


def test_thousands_of_failures_fit_on_a_screen_and_verbose_names_all(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.add(*(f"{number}.psd" for number in range(1000)), content=PSD)
    folder.add(*(f"{number}.txt" for number in range(1000)))
    assert folder.batch() == exits.FAILED
    assert len(folder.err.splitlines()) == 22
    assert "... and 980 more failures: -v names all\n" in folder.err
    assert "left out 1000: plain text: 0.txt, 1.txt, 10.txt and 997 more\n" in folder.err
    folder.batch("-v")
    assert len(folder.err.splitlines()) == 1002


def test_options_without_effect_on_a_folder_are_reported_or_refused(folder: Folder) -> None:
    folder.add("a.jpg")
    assert folder.batch("--factor", "2", "--width-inches", "8", "--quality", "90") == exits.OK
    assert folder.err.splitlines() == [
        "upscaled batch: --factor has no effect beside --width-inches 8",
        "upscaled batch: --quality has no effect on png, which loses nothing",
    ]
    for refused in ("output_path=b.png", "output_base64=true"):
        with pytest.raises(SystemExit) as left:
            folder.batch("--config", refused)
        assert left.value.code == exits.USAGE


def test_an_output_folder_that_cannot_be_made_is_reported_in_one_line(folder: Folder) -> None:
    folder.add("a.jpg")
    folder.large.touch()
    folder.large = folder.large / "below"
    assert folder.batch() == exits.FAILED
    assert folder.err.startswith("upscaled batch: the output folder cannot be written: ")
    assert folder.sent() == []


def test_looking_through_a_folder_imports_nothing_heavy() -> None:
    code = (
        "import sys; import upscaled_cli.batch;"
        "print(*{'pydantic', 'torch', 'numpy', 'pyvips', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
