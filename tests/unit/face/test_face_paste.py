from __future__ import annotations

import cmath
import errno
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from upscaled_imaging.rows import Picture
from upscaled_models.face.alignment import TEMPLATE, Similarity
from upscaled_models.face.faces import CROP_PX, Face, Floats
from upscaled_models.face.heldrows import HeldRows
from upscaled_models.face.paste import FacePaste
from upscaled_protocol.errors import ErrorCode, JobError


def face_at(x: float, y: float, side: float, degrees: float = 0) -> Face:
    """A face whose square has its centre at x, y."""
    factor = side / CROP_PX * cmath.exp(1j * math.radians(degrees))
    middle = CROP_PX / 2 * (1 + 1j)
    from_crop = Similarity(factor, complex(x, y) - factor * middle)
    points = from_crop.apply(TEMPLATE)
    return Face((x - side / 2, y - side / 2, side, side), 1.0, points)


def picture(width: int, height: int, bands: int = 3, bits: int = 8) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 2**bits, (height, width, bands))
    return values.astype(np.uint8 if bits == 8 else np.uint16)


def blocks(pixels: np.ndarray, rows: int = 16) -> Iterator[np.ndarray]:
    for top in range(0, len(pixels), rows):
        yield pixels[top : top + rows]


def unchanged(crop: Floats) -> Floats:
    return crop


def pasted(pixels: np.ndarray, faces: Iterable[Face]) -> np.ndarray:
    height, width, bands = pixels.shape
    shape = Picture(width, height, bands, 8 * pixels.itemsize)
    paste = FacePaste(list(faces), shape, unchanged)
    return np.concatenate(list(paste.rows(blocks(pixels))))


# Together all multiples of 15 degrees: three of them for each kind of picture.
@pytest.mark.parametrize(
    ("bands", "bits", "turned"),
    [
        (bands, bits, 45 * number)
        for number, (bands, bits) in enumerate(itertools.product((1, 2, 3, 4), (8, 16)))
    ],
)
def test_a_network_that_changes_nothing_changes_no_pixel(
    bands: int, bits: int, turned: int
) -> None:
    pixels = picture(80, 60, bands, bits)
    # They overlap, the border cuts the first and the last, and the last is larger than the crop.
    places = ((-10, 20), (15, 50), (70, 700))
    faces = [face_at(x, 25, side, turned + 15 * number) for number, (x, side) in enumerate(places)]

    assert np.array_equal(pasted(pixels, faces), pixels)


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("degrees", [0, 45, 135])
def test_an_enlarged_picture_stays_the_same_too(times: int, degrees: int) -> None:
    pixels = picture(40 * times, 30 * times)
    paste = FacePaste(
        [face_at(18.3, 14.6, 25, degrees)],
        Picture(40 * times, 30 * times, 3, 8),
        unchanged,
        scale=(times, times),
    )

    assert np.array_equal(np.concatenate(list(paste.rows(blocks(pixels)))), pixels)


def test_the_crop_is_the_upright_face() -> None:
    # A picture whose colours are its coordinates, so each pixel of the crop says where it is from.
    rows, columns = np.mgrid[:200, :200] + 0.5
    values = np.stack((columns, rows, np.zeros_like(rows)), axis=-1) * (65535 / 200)
    pixels = np.rint(values).astype(np.uint16)
    face = face_at(110, 90, 100, 30)
    seen: list[Floats] = []

    def noted(crop: Floats) -> Floats:
        seen.append(crop)
        return crop

    paste = FacePaste([face], Picture(200, 200, 3, 16), noted)

    list(paste.rows(blocks(pixels)))

    [crop] = seen
    at_the_points = [crop[int(y), int(x), :2] * 200 for x, y in TEMPLATE]
    # The pixel in which a point lies has its centre within half a pixel of the crop: 0.14 px here.
    assert np.abs(np.array(at_the_points) - face.points).max() < 0.15


@pytest.mark.parametrize("side", [60, 900])
def test_what_the_network_draws_comes_to_its_place(side: int) -> None:
    """A dot that it draws onto the tip of the nose."""

    def with_dot(crop: Floats) -> Floats:
        rows, columns = np.mgrid[:CROP_PX, :CROP_PX] + 0.5
        distance = np.hypot(columns - TEMPLATE[2, 0], rows - TEMPLATE[2, 1])
        dot: Floats = crop + np.exp(-((distance / 16) ** 2))[:, :, None].astype(np.float32)
        return dot

    face = face_at(0, 0, side, 75)
    face = replace(face, points=face.points - face.points[2] + [100.3, 80.2])
    pixels = np.full((160, 200, 3), 100, np.uint8)
    paste = FacePaste([face], Picture(200, 160, 3, 8), with_dot)

    change = np.concatenate(list(paste.rows(blocks(pixels))))[:, :, 0] - 100.0

    rows, columns = np.mgrid[:160, :200] + 0.5
    middle = np.array([(columns * change).sum(), (rows * change).sum()]) / change.sum()
    assert np.abs(middle - face.points[2]).max() < 0.1


def brighter(crop: Floats) -> Floats:
    lighter: Floats = np.minimum(crop + np.float32(0.2), 1)
    return lighter


def restored(
    pixels: np.ndarray, faces: list[Face], *, strength: float = 1, rows: int = 16
) -> np.ndarray:
    height, width, bands = pixels.shape
    shape = Picture(width, height, bands, 8 * pixels.itemsize)
    paste = FacePaste(faces, shape, brighter, strength=strength)
    return np.concatenate(list(paste.rows(blocks(pixels, rows))))


def test_nothing_changes_outside_the_square_of_a_face() -> None:
    pixels = picture(120, 100)
    changed = (restored(pixels, [face_at(60, 50, 40)]) != pixels).any(axis=2)

    assert changed[31:69, 41:79].any()
    changed[30:70, 40:80] = False
    assert not changed.any()


def test_the_mask_has_no_hard_edge() -> None:
    pixels = np.full((300, 300, 3), 100, np.uint8)

    out = restored(pixels, [face_at(150, 150, 256)]).astype(int)

    assert out.max() == 151
    assert max(np.abs(np.diff(out, axis=0)).max(), np.abs(np.diff(out, axis=1)).max()) <= 4


def test_strength_0_changes_nothing_and_more_changes_more() -> None:
    pixels = picture(60, 60)
    faces = [face_at(30, 30, 50, 20)]
    changes = [
        np.abs(restored(pixels, faces, strength=strength).astype(int) - pixels)
        for strength in (0, 0.1, 0.35, 0.7, 1)
    ]

    assert not changes[0].any()
    for weaker, stronger in itertools.pairwise(changes):
        assert (weaker <= stronger).all()
        assert weaker.sum() < stronger.sum()


@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_stays_and_all_bits_are_used(bits: int) -> None:
    pixels = picture(60, 60, 4, bits)
    out = restored(pixels, [face_at(30, 30, 50)])

    assert np.array_equal(out[:, :, 3], pixels[:, :, 3])
    assert out.dtype == pixels.dtype
    assert len(np.unique(out)) > 2 ** (bits - 4)


def test_a_gray_picture_stays_gray_and_gets_the_luma_of_the_face() -> None:
    def red(crop: Floats) -> Floats:
        tinted: Floats = crop + np.array([0.2, 0, 0], np.float32)
        return tinted

    pixels = np.full((60, 60, 1), 100, np.uint8)
    paste = FacePaste([face_at(30, 30, 50)], Picture(60, 60, 1, 8), red)

    out = np.concatenate(list(paste.rows(blocks(pixels))))

    assert out.shape == pixels.shape
    assert out.max() == 100 + round(0.2 * 0.299 * 255)


def test_the_result_does_not_depend_on_the_blocks() -> None:
    pixels = picture(90, 80)
    faces = [face_at(30, 30, 50, 20), face_at(50, 45, 40, -10), face_at(80, 75, 60)]

    assert np.array_equal(restored(pixels, faces, rows=7), restored(pixels, faces, rows=80))


def test_a_face_with_more_pixels_than_the_network_sees_keeps_its_detail() -> None:
    """The network sees no pixel of a fine pattern, and returns its crop a little brighter."""
    rows, columns = np.mgrid[:1100, :1100]
    pattern = (100 + 60 * ((rows + columns) % 2))[:, :, None]
    pixels = np.broadcast_to(pattern, (1100, 1100, 3)).astype(np.uint8)

    out = restored(pixels, [face_at(550, 550, 2100)])

    before, after = (part[500:600, 500:600, 0].astype(float) for part in (pixels, out))
    assert after.mean() - before.mean() > 40
    assert after.std() == pytest.approx(before.std(), abs=1)


@pytest.mark.parametrize(("side", "most"), [(60, 0.33), (250, 0.33), (420, 0.45)])
@pytest.mark.parametrize("degrees", [0, 20])
def test_a_face_with_fewer_pixels_than_the_network_sees_keeps_little_of_its_grain(
    side: int, most: float, degrees: int
) -> None:
    grain = np.random.default_rng(0).normal(128, 20, (460, 460, 3))
    pixels = np.clip(np.rint(grain), 0, 255).astype(np.uint8)
    paste = FacePaste(
        [face_at(230.3, 230.2, side, degrees)],
        Picture(460, 460, 3, 8),
        lambda crop: np.full_like(crop, 0.25),
    )

    out = np.concatenate(list(paste.rows(blocks(pixels))))

    half = side // 8
    before, after = (
        part[230 - half : 230 + half, 230 - half : 230 + half].astype(float)
        for part in (pixels, out)
    )
    assert after.mean() == pytest.approx(63.75, abs=1)
    assert after.std() < most * before.std()


def test_a_face_that_a_crop_cuts_off_has_its_reason_and_is_not_restored() -> None:
    paste = FacePaste(
        [face_at(10, 10, 12), face_at(90, 90, 12)],
        Picture(40, 40, 3, 8),
        unchanged,
        scale=(2, 2),
        offset=(160, 160),
    )

    assert [face.why for face in paste.faces] == ["cropped off", None]


def test_an_error_of_the_network_is_not_swallowed() -> None:
    def fails(crop: Floats) -> Floats:
        raise MemoryError("no room")

    def wrong(crop: Floats) -> Floats:
        return crop * np.float32(np.nan)

    pixels = picture(60, 60)
    for network, error in ((fails, MemoryError), (wrong, ValueError)):
        paste = FacePaste([face_at(30, 30, 50)], Picture(60, 60, 3, 8), network)
        with pytest.raises(error):
            list(paste.rows(blocks(pixels)))


def test_of_90_faces_no_more_rows_are_held_than_one_face_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing_rows: list[int] = []

    def paste_nothing(_paste: FacePaste, patch: Any, held: HeldRows) -> None:
        rows = sum(len(part) for _, part in held.between(patch.top, patch.bottom))
        missing_rows.append(patch.bottom - patch.top - rows)

    monkeypatch.setattr(FacePaste, "_paste", paste_nothing)
    pixels = picture(40, 4000)
    faces = [face_at(20, y, 30) for y in range(20, 3980, 44)]
    paste = FacePaste(faces, Picture(40, 4000, 3, 8), unchanged)
    ahead = most = 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal ahead, most
        for block in blocks(pixels):
            ahead += len(block)
            most = max(most, ahead)
            yield block

    for rows in paste.rows(counted()):
        ahead -= len(rows)
    assert ahead == 0
    assert missing_rows == [0] * 90
    # A face's square, what interpolation reads around it, and the blocks at both of its ends.
    assert most <= 30 + 2 * 4 + 2 * 16


def test_many_rows_are_held_in_files_and_come_back() -> None:
    pixels = picture(50, 200)
    held = HeldRows(in_memory_bytes=50 * 3 * 40)
    for block in blocks(pixels):
        held.add(block, to_change=True)
    for _, rows in held.between(100, 150):
        rows[:] = 7

    out = np.concatenate(list(held.take(200)))

    assert (out[100:150] == 7).all()
    out[100:150] = pixels[100:150]
    assert np.array_equal(out, pixels)


def test_a_full_disk_is_an_error_with_a_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    held = HeldRows(in_memory_bytes=0)

    with pytest.raises(JobError, match="temporary files") as refused:
        held.add(picture(5, 5), to_change=True)

    assert refused.value.code == ErrorCode.OUTPUT_UNWRITABLE
