"""Files that get the first free name and replace no other file, also beside other processes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from upscaled_imaging import freename
from upscaled_imaging.pendingfile import PendingFile
from upscaled_protocol.errors import ErrorCode, JobError


@pytest.fixture(params=["nameless", "named"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Nameless files, or a file system without them."""
    if request.param == "named":
        monkeypatch.delattr("os.O_TMPFILE")
    return str(request.param)


def publish(path: Path, text: str, mark: str | None = None) -> Path:
    pending = PendingFile(path)
    try:
        pending.file.write(text.encode())
        pending.file.flush()
        return pending.publish_numbered(mark)
    finally:
        pending.close()


def test_a_taken_name_gets_a_number_and_no_file_is_touched(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "photo_esrgan_2.5x.png"
    for number in range(1, 12):
        name = path.name if number == 1 else f"photo_esrgan_2.5x-{number}.png"
        assert publish(path, str(number)) == tmp_path / name
    assert sorted(int(file.read_text()) for file in tmp_path.iterdir()) == [*range(1, 12)]


def test_a_folder_or_a_link_occupies_a_name_too(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").mkdir()
    (tmp_path / "a-2.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "a-3.png")
    assert publish(tmp_path / "a.png", "", "mark") == tmp_path / "a-4.png"
    assert not (tmp_path / "nowhere").exists()


def test_a_link_at_a_given_path_is_replaced_and_not_followed(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a.png").symlink_to("pointed-to.png")
    (tmp_path / "pointed-to.png").write_text("before")
    with contextlib.closing(PendingFile(tmp_path / "a.png")) as pending:
        pending.file.write(b"after")
        pending.publish()
    assert not (tmp_path / "a.png").is_symlink()
    assert (tmp_path / "a.png").read_text() == "after"
    assert (tmp_path / "pointed-to.png").read_text() == "before"


def test_the_same_job_run_again_replaces_its_own_file_and_no_other(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "a.png"
    path.write_text("another job's")
    assert publish(path, "first run", "job") == tmp_path / "a-2.png"
    assert publish(path, "another job", "other") == tmp_path / "a-3.png"
    assert publish(path, "second run", "job") == tmp_path / "a-2.png"
    assert publish(path, "a job without a mark") == tmp_path / "a-4.png"
    texts = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert texts == {
        "a.png": "another job's",
        "a-2.png": "second run",
        "a-3.png": "another job",
        "a-4.png": "a job without a mark",
    }


def test_a_file_system_without_attributes_costs_a_second_file_and_no_output(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    monkeypatch.setattr(os, "setxattr", refuse)
    assert publish(tmp_path / "a.png", "", "job") == tmp_path / "a.png"
    assert publish(tmp_path / "a.png", "", "job") == tmp_path / "a-2.png"


def refusing(code: int) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("missing", [(), ("_rename",), ("_rename", "_link")])
def test_every_file_system_has_a_way_that_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    monkeypatch.delattr("os.O_TMPFILE")
    for name, code in zip(missing, (errno.EINVAL, errno.EPERM), strict=False):
        monkeypatch.setattr(freename, name, refusing(code))
    path = tmp_path / "a.png"
    assert publish(path, "first") == path
    assert publish(path, "second") == tmp_path / "a-2.png"
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "a.png": "first",
        "a-2.png": "second",
    }


@pytest.mark.parametrize("without", ["_rename", "_link"])
def test_no_empty_file_ever_has_the_name_if_the_file_system_can_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.delattr("os.O_TMPFILE")
    monkeypatch.setattr(freename, without, refusing(errno.EINVAL))
    monkeypatch.setattr(freename, "_reserve", refusing(errno.EIO))
    for name in ("a.png", "a-2.png"):
        assert publish(tmp_path / "a.png", "text") == tmp_path / name


def test_a_failed_rename_leaves_no_empty_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.O_TMPFILE")
    monkeypatch.setattr(freename, "_rename", refusing(errno.ENOSYS))
    monkeypatch.setattr(freename, "_link", refusing(errno.EPERM))
    monkeypatch.setattr(os, "replace", refusing(errno.EIO))
    with pytest.raises(JobError) as failed:
        publish(tmp_path / "a.png", "text")
    assert failed.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_cut_to_make_room_for_its_number(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"{'é' * 125}x.png"
    assert len(path.name.encode()) == 255
    assert publish(path, "first") == path
    assert publish(path, "second") == tmp_path / f"{'é' * 124}-2.png"


# Publishes files of one name, like one of several daemons that share a folder.
WRITER = """
import sys
from pathlib import Path
from upscaled_imaging.pendingfile import PendingFile
if sys.argv[2] == "named":
    import os; del os.O_TMPFILE
sys.stdin.read()
for number in range(50):
    pending = PendingFile(Path(sys.argv[1]))
    pending.file.write(f"{sys.argv[3]} {number}".encode())
    pending.file.flush()
    print(pending.publish_numbered(None).name)
    pending.close()
"""


@pytest.mark.parametrize("how", ["nameless", "named"])
def test_processes_that_write_at_once_never_share_a_name(tmp_path: Path, how: str) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path / "a.png", how, str(writer)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for writer in range(3)
    ]
    names: Counter[str] = Counter()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
        writer.stdin = None
    for writer in writers:
        out, _ = writer.communicate(timeout=60)
        names.update(out.split())
    assert len(names) == 150
    assert names.keys() == {file.name for file in tmp_path.iterdir()}
    texts = {file.read_text() for file in tmp_path.iterdir()}
    assert texts == {f"{writer} {number}" for writer in range(3) for number in range(50)}
