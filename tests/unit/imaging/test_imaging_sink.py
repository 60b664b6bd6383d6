"""A sink: whole files or none, cancels, a bounded queue, turns."""

from __future__ import annotations

import base64
import gc
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import pyvips
from PIL import Image

from full_disk import files_up_to
from recording import RecordingContext
from sinks import output_at, pixels_in, write_file, write_rows
from upscaled_imaging import destinations, write
from upscaled_imaging.destinations import FileDestination, Written
from upscaled_imaging.rows import Picture
from upscaled_imaging.write import Sink, open_sink
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size
from waiting import TIMEOUT_S, wait_until

RNG = np.random.default_rng(12)
Upscale = Callable[..., str]


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp", "avif"])
def test_an_abandoned_job_leaves_no_file(tmp_path: Path, kind: str) -> None:
    output = output_at(tmp_path / "out", kind, 500, 400)
    with open_sink(output, Size(width=500, height=400), 3, 8) as sink:
        sink.write(np.zeros((100, 500, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_no_file_appears_before_commit_and_the_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    pixels = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    with open_sink(output_at(path, "png", 30, 40), Size(width=30, height=40), 3, 8) as sink:
        sink.write(pixels)
        assert path.read_bytes() == b"old"
        assert sink.commit() == Written(output_path=str(path))
    assert np.array_equal(pixels_in(path), pixels)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("nameless", [True, False])
def test_a_folder_that_becomes_a_link_takes_no_output_out_of_the_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nameless: bool
) -> None:
    if not nameless:
        monkeypatch.delattr("os.O_TMPFILE")
    root, folder, outside = tmp_path / "root", tmp_path / "root/folder", tmp_path / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    destination = FileDestination(folder / "out.png", roots=(root,))
    output = replace(output_at(None, "png", 10, 10), destination=destination)

    def swap() -> None:
        folder.rename(root / "moved")
        folder.symlink_to(outside)

    # The folder is swapped while the picture is computed: the file goes to the checked folder.
    with open_sink(output, Size(width=10, height=10), 3, 8) as sink:
        sink.write(np.zeros((10, 10, 3), np.uint8))
        swap()
        sink.commit()
    assert [path.name for path in (root / "moved").iterdir()] == ["out.png"]
    # The folder is swapped before it is opened: the output is refused.
    with (
        pytest.raises(JobError) as caught,
        open_sink(output, Size(width=10, height=10), 3, 8),
    ):
        pass
    assert caught.value.code is ErrorCode.PATH_NOT_ALLOWED
    assert list(outside.iterdir()) == []


def test_file_systems_without_nameless_files_are_served_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("os.O_TMPFILE")
    path = tmp_path / "out.png"
    size = Size(width=30, height=40)
    with open_sink(output_at(path, "png", 30, 40), size, 3, 8):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []
    write_file(path, "png", np.zeros((40, 30, 3), np.uint8))
    assert list(tmp_path.iterdir()) == [path]


def test_the_files_mode_follows_the_umask(tmp_path: Path) -> None:
    write_file(tmp_path / "out.png", "png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "out.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp", "avif"])
@pytest.mark.parametrize("named", [True, False])
def test_a_full_disk_is_one_plain_error(tmp_path: Path, kind: str, named: bool) -> None:
    pixels = RNG.integers(0, 256, (150, 200, 3), dtype=np.uint8)
    with files_up_to(10_000), pytest.raises(JobError) as caught:
        write_file(tmp_path / "out" if named else None, kind, pixels)
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "File too large" in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["png", "tiff", "jpeg", "webp", "avif"])
def test_an_error_before_the_encoder_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    def fail(rows: Iterator[np.ndarray], *_: object, **__: object) -> Iterator[np.ndarray]:
        yield next(rows)[:10]
        raise MemoryError("while resampling")

    monkeypatch.setattr(write, "fitted", fail)
    native = Size(width=100, height=100)
    output = output_at(tmp_path / "out", kind, 100, 90)
    with open_sink(output, native, 3, 8) as sink:
        sink.write(np.zeros((100, 100, 3), np.uint8))
        with pytest.raises(MemoryError, match="while resampling"):
            sink.commit()
    assert list(tmp_path.iterdir()) == []


def test_a_failing_encoder_ends_a_waiting_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: Iterator[np.ndarray], *_: object) -> None:
        next(rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_png", fail)
    monkeypatch.setattr(write, "_QUEUE_BYTES", 1000)
    with pytest.raises(JobError, match="No space left"):
        write_file(tmp_path / "out", "png", np.zeros((100, 100, 3), np.uint8))
    output = output_at(tmp_path / "out", "png", 100, 100)
    with open_sink(output, Size(width=100, height=100), 3, 8) as sink:
        sink.write(np.zeros((1, 100, 3), np.uint8))
        with pytest.raises(JobError, match="No space left"):
            write_rows(sink, 99)
    assert list(tmp_path.iterdir()) == []


class CancelledOnce(RecordingContext):
    """A job that is cancelled once an event is set."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self._event = event

    def check_cancelled(self) -> None:
        if self._event.is_set():
            raise JobError(ErrorCode.CANCELLED, "the host cancelled the job")


@pytest.fixture
def deaf_encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[threading.Event, ...]]:
    """An encoder that has all rows and runs until an event: the events of its start and end."""
    started, may_end = threading.Event(), threading.Event()

    def encode(rows: Iterator[np.ndarray], file: BinaryIO, *_: object) -> None:
        data = b"".join(block.tobytes() for block in rows)
        started.set()
        may_end.wait()
        file.write(data)

    monkeypatch.setitem(write._LOSSY, "avif", encode)
    yield started, may_end
    may_end.set()


def test_a_cancelled_job_does_not_wait_for_an_encoder_that_has_every_row(
    tmp_path: Path, deaf_encoder: tuple[threading.Event, ...]
) -> None:
    started, may_end = deaf_encoder
    size = Size(width=10, height=10)

    def encode(context: RecordingContext) -> None:
        output = replace(output_at(tmp_path / "out.avif", "avif", 10, 10), context=context)
        with open_sink(output, size, 3, 8) as sink:
            sink.write(np.zeros((10, 10, 3), np.uint8))
            sink.commit()

    with pytest.raises(JobError) as caught:
        encode(CancelledOnce(started))
    assert caught.value.code is ErrorCode.CANCELLED
    assert list(tmp_path.iterdir()) == []
    # The next job waits for the encoder that was left behind, and can be cancelled meanwhile.
    started.clear()
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(JobError):
        encode(CancelledOnce(cancelled))
    assert not started.is_set()
    may_end.set()
    encode(RecordingContext())
    assert started.is_set()
    assert [path.name for path in tmp_path.iterdir()] == ["out.avif"]


def test_a_cancelled_job_does_not_wait_for_an_encoder_that_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, over = threading.Event(), threading.Event()

    def encode(rows: Iterator[np.ndarray], *_: object) -> None:
        started.set()
        over.wait()
        next(rows)

    monkeypatch.setattr(write, "write_png", encode)
    monkeypatch.setattr(write, "_QUEUE_BYTES", 1000)
    output = replace(output_at(tmp_path / "out", "png", 100, 100), context=CancelledOnce(started))
    try:
        with (
            pytest.raises(JobError) as caught,
            open_sink(output, Size(width=100, height=100), 3, 8) as sink,
        ):
            write_rows(sink, 100)
    finally:
        over.set()
    assert caught.value.code is ErrorCode.CANCELLED
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_job_ends_at_its_next_rows(tmp_path: Path) -> None:
    cancelled = threading.Event()
    output = replace(output_at(tmp_path / "out", "png", 100, 9), context=CancelledOnce(cancelled))
    with open_sink(output, Size(width=100, height=9), 3, 8) as sink:
        write_rows(sink, 3)
        cancelled.set()
        with pytest.raises(JobError) as caught:
            write_rows(sink, 1)
    assert caught.value.code is ErrorCode.CANCELLED


def test_encoding_is_reported_as_progress(
    tmp_path: Path, upscale: Upscale, context: RecordingContext
) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "in.png")
    upscale(image_path=str(tmp_path / "in.png"))
    assert context.percents[-1] == 100


def test_an_engine_never_gets_far_ahead_of_its_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    ahead: list[int] = []
    done = threading.Event()

    def encode(rows: Iterator[np.ndarray], *_: object) -> None:
        ahead.extend(written - taken for taken, _ in enumerate(rows, 1))
        done.set()

    monkeypatch.setattr(write, "write_png", encode)
    monkeypatch.setattr(write, "_QUEUE_BYTES", 900)
    output = output_at(tmp_path / "out", "png", 100, 500)
    with open_sink(output, Size(width=100, height=500), 3, 8) as sink:
        for _ in range(500):
            write_rows(sink, 1)
            written += 1
        assert done.wait(TIMEOUT_S)
    assert max(ahead) <= 3


def test_in_turns_rows_are_encoded_when_they_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0

    def encode(rows: Iterator[np.ndarray], *_arguments: object) -> None:
        nonlocal taken
        for _ in rows:
            taken += 1

    monkeypatch.setattr(write, "write_png", encode)
    output = output_at(tmp_path / "out", "png", 100, 500)
    with open_sink(output, Size(width=100, height=500), 3, 8, in_turns=True) as sink:
        for count in range(1, 501):
            write_rows(sink, 1)
            assert taken == count


def test_in_turns_a_failing_encoder_fails_the_engine_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def encode(rows: Iterator[np.ndarray], *_arguments: object) -> None:
        next(rows)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "write_png", encode)
    output = output_at(tmp_path / "out", "png", 100, 500)
    with (
        open_sink(output, Size(width=100, height=500), 3, 8, in_turns=True) as sink,
        pytest.raises(JobError, match="No space"),
    ):
        write_rows(sink, 1)


def test_rows_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    output = output_at(tmp_path / "out", "png", 10, 10)
    with open_sink(output, Size(width=10, height=10), 3, 8) as sink:
        for wrong in (
            np.zeros((1, 9, 3), np.uint8),
            np.zeros((1, 10, 4), np.uint8),
            np.zeros((1, 10, 3), np.uint16),
            np.zeros((11, 10, 3), np.uint8),
        ):
            with pytest.raises(ValueError, match="were due"):
                sink.write(wrong)
        with pytest.raises(ValueError, match="missing"):
            sink.commit()


def test_base64_holds_the_whole_file(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    with open_sink(output_at(None, "png", 30, 40), Size(width=30, height=40), 3, 8) as sink:
        sink.write(pixels)
        text = sink.commit().output_base64
    assert text is not None
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        assert np.array_equal(np.asarray(picture), pixels)


def test_base64_that_no_line_could_carry_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "_BASE64_BYTES", 1000)
    pixels = RNG.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    with open_sink(output_at(None, "png", 30, 40), Size(width=30, height=40), 3, 8) as sink:
        sink.write(pixels)
        with pytest.raises(JobError, match="output_path") as caught:
            sink.commit()
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp", "avif"])
def test_a_finished_job_frees_its_pixels_at_once(
    tmp_path: Path, upscale: Upscale, suffix: str
) -> None:
    # Python's collector does not know libvips' memory, and may run hundreds of jobs later.
    def images() -> int:
        kinds = (pyvips.Image, pyvips.Source, Sink)
        # By `type`, because objects of some libraries warn if their `__class__` is read.
        return sum(issubclass(type(one), kinds) for one in gc.get_objects())

    picture = Image.fromarray(RNG.integers(0, 256, (40, 30, 4), dtype=np.uint8))
    picture.save(tmp_path / "whole.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-2000])
    gc.collect()
    gc.disable()
    try:
        before = images()
        for name in ("whole.png", "broken.png"):
            fields = {"image_path": str(tmp_path / name), "target_width": 50}
            with suppress(JobError):
                upscale(**fields, output_path=str(tmp_path / f"out.{suffix}"))
        # After a broken picture the encoder may end a moment later.
        wait_until(lambda: images() == before, "the end of all images")
    finally:
        gc.enable()


def test_a_picture_knows_its_row() -> None:
    picture = Picture(7, 3, 4, 16)
    assert (picture.row_bytes, picture.has_alpha) == (56, True)
    assert not replace(picture, bands=3).has_alpha
