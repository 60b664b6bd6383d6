"""The face engine from file to file, and the same step of an ESRGAN job. Faces are given, so that
no detector runs, and the network is replaced by one whose result is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image, ImageCms

from face_jobs import Restored, give_faces, negative, read, restore_as, same
from garbage import without_garbage
from opened_pictures import ORIENTATION
from recording import RecordingContext
from tiny_faces import face_at, face_model, restoreformer
from tiny_networks import compact, save
from upscaled_models.engine import Outcome, Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.face import restoration
from upscaled_models.face.engine import FaceEngine
from upscaled_models.face.faces import FaceOptions, Floats
from upscaled_models.face.networks import FaceNetwork
from upscaled_protocol.configs import EsrganConfig, FaceConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.faces import Box

RNG = np.random.default_rng(3)
FACES = [face_at(60, 40, 50), face_at(20, 70, 90), face_at(90, 10, 20, "too small")]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    face_model(folder, restoreformer(-0.5))
    (folder / "upscale_models").mkdir()
    save(compact(scale=2), folder / "upscale_models" / "tiny.safetensors")
    return folder


@pytest.fixture(scope="module")
def face_engine(model_dir: Path) -> FaceEngine:
    engine = FaceEngine(Settings(model_dir=model_dir))
    engine.start()
    return engine


@pytest.fixture(scope="module")
def esrgan_engine(model_dir: Path) -> EsrganEngine:
    engine = EsrganEngine(Settings(model_dir=model_dir))
    engine.start()
    return engine


@pytest.fixture
def looked_with(monkeypatch: pytest.MonkeyPatch) -> list[FaceOptions]:
    """What faces were looked for with. Every picture has `FACES`."""
    return give_faces(monkeypatch, FACES)


def write(path: Path, bands: int, bits: int, height: int = 97, width: int = 121) -> np.ndarray:
    pixels = RNG.integers(0, 1 << bits, (height, width, bands), np.uint16)
    if bands in (2, 4):
        pixels[:, :, -1] |= 1  # colour under clear pixels is not kept
    pixels = pixels.astype(np.uint8 if bits == 8 else np.uint16)
    kind = {1: "b-w", 2: "b-w", 3: "srgb", 4: "srgb"}[bands]
    if bits == 16:
        kind = {"b-w": "grey16", "srgb": "rgb16"}[kind]
    pyvips.Image.new_from_array(pixels, interpretation=kind).write_to_file(str(path))
    return pixels


def run(
    engine: FaceEngine, path: Path, context: RecordingContext | None = None, **fields: Any
) -> Outcome:
    given = {"image_path": str(path), "output_path": str(path.parent / "out.png")} | fields
    return engine.run(FaceConfig(**given), context or RecordingContext())


@pytest.mark.usefixtures("looked_with")
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_network_that_changes_nothing_changes_no_pixel(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any, bands: int, bits: int
) -> None:
    crops = restore_as(monkeypatch, same)
    pixels = write(tmp_path / "in.png", bands, bits)
    outcome = run(face_engine, tmp_path / "in.png")
    assert len(crops) == 2
    assert read(outcome).dtype == pixels.dtype
    assert np.array_equal(read(outcome), pixels)
    assert outcome.scale_factor == 1


@pytest.mark.usefixtures("looked_with")
def test_what_a_job_holds_is_freed_at_its_end(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, negative)
    write(tmp_path / "in.png", 3, 8)
    with without_garbage():
        run(face_engine, tmp_path / "in.png", upscale_model="tiny", upscale_factor=2)


@pytest.mark.usefixtures("looked_with")
@pytest.mark.parametrize(
    "size",
    [
        {"upscale_factor": 2},
        {"upscale_factor": 3},
        {"target_width": 150, "target_height": 150, "crop": "center"},
    ],
)
def test_an_esrgan_job_with_faces_differs_from_one_without_in_the_faces_alone(
    tmp_path: Path, esrgan_engine: EsrganEngine, monkeypatch: Any, size: dict[str, Any]
) -> None:
    write(tmp_path / "in.png", 4, 8)

    def upscaled(restored: Restored, **fields: Any) -> np.ndarray:
        restore_as(monkeypatch, restored)
        config = EsrganConfig(
            image_path=str(tmp_path / "in.png"),
            output_path=str(tmp_path / "out.png"),
            model="tiny",
            **size,
            **fields,
        )
        return read(esrgan_engine.run(config, RecordingContext()))

    plain = upscaled(negative)
    assert np.array_equal(upscaled(same, faces=True), plain)
    changed = (upscaled(negative, faces=True) != plain).any(2)
    assert 0.05 < changed.mean() < 0.6
    assert not changed[:, -10:].any()
    assert np.array_equal(upscaled(negative, faces=True)[:, :, 3], plain[:, :, 3])


@pytest.mark.usefixtures("looked_with")
def test_the_method_face_enlarges_as_esrgan_does(
    tmp_path: Path, face_engine: FaceEngine, esrgan_engine: EsrganEngine, monkeypatch: Any
) -> None:
    write(tmp_path / "in.png", 3, 16)
    restore_as(monkeypatch, negative)
    fields: Any = {"upscale_factor": 2, "image_path": str(tmp_path / "in.png")}
    one = face_engine.run(
        FaceConfig(upscale_model="tiny", output_path=str(tmp_path / "1.png"), **fields),
        RecordingContext(),
    )
    other = esrgan_engine.run(
        EsrganConfig(model="tiny", faces=True, output_path=str(tmp_path / "2.png"), **fields),
        RecordingContext(),
    )
    assert np.array_equal(read(one), read(other))
    assert (one.model, other.model) == ("GFPGANv1.4", "tiny")
    assert one.faces == other.faces


@pytest.mark.usefixtures("looked_with")
def test_a_model_that_was_chosen_is_named_by_the_job_that_it_enlarges_for(
    tmp_path: Path, face_engine: FaceEngine, esrgan_engine: EsrganEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, same)
    write(tmp_path / "in.png", 3, 8, 20, 20)
    config = EsrganConfig(
        image_path=str(tmp_path / "in.png"),
        output_path=str(tmp_path / "1.png"),
        model="auto",
        upscale_factor=2,
        faces=True,
    )
    chosen = esrgan_engine.run(config, RecordingContext())
    assert (chosen.model, chosen.model_reason) != ("auto", None)
    assert chosen.model_reason is not None
    faces = run(face_engine, tmp_path / "in.png", upscale_model="auto", upscale_factor=2)
    assert (faces.model, faces.model_reason) == ("GFPGANv1.4", None)


@pytest.mark.usefixtures("looked_with")
def test_gray_stays_gray_and_alpha_stays_as_it_is(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, lambda crop: crop * np.array([0.2, 0.6, 0.9], np.float32))
    pixels = write(tmp_path / "in.png", 2, 16)
    written = read(run(face_engine, tmp_path / "in.png"))
    assert written.shape == pixels.shape
    assert np.array_equal(written[:, :, 1], pixels[:, :, 1])
    assert not np.array_equal(written[:, :, 0], pixels[:, :, 0])


@pytest.mark.usefixtures("looked_with")
def test_a_turned_photograph_keeps_its_profile_and_its_resolution(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    exif[0x010F] = "maker"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = RNG.integers(0, 256, (97, 121, 3), np.uint8)
    Image.fromarray(pixels).save(
        tmp_path / "in.png", exif=exif, icc_profile=profile, dpi=(300, 300)
    )
    restore_as(monkeypatch, same)
    outcome = run(face_engine, tmp_path / "in.png")
    assert np.array_equal(read(outcome), np.rot90(pixels, -1))
    with Image.open(str(outcome.output_path)) as written:
        assert written.info["icc_profile"] == profile
        assert round(written.info["dpi"][0]) == 300
        assert written.getexif()[0x010F] == "maker"
        assert written.getexif().get(ORIENTATION, 1) == 1


@pytest.mark.usefixtures("looked_with")
def test_the_result_lists_the_faces_in_pixels_of_the_input(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, same)
    write(tmp_path / "in.png", 3, 8)
    outcome = run(face_engine, tmp_path / "in.png", upscale_factor=2, upscale_model="tiny")
    assert outcome.faces is not None
    assert [(face.restored, face.why) for face in outcome.faces] == [
        (True, None),
        (True, None),
        (False, "too small"),
    ]
    first = outcome.faces[0]
    assert first.box == Box(x=47.5, y=27.5, width=25, height=25)
    assert first.score == 0.99
    assert len(first.points) == 5
    assert abs(first.points[2].x - 60) < 1


def test_the_options_reach_the_detector(
    tmp_path: Path,
    face_engine: FaceEngine,
    monkeypatch: Any,
    looked_with: list[FaceOptions],
) -> None:
    restore_as(monkeypatch, same)
    write(tmp_path / "in.png", 3, 8)
    run(face_engine, tmp_path / "in.png")
    fields: Any = {"detector_threshold": 0.5, "only_largest": True, "min_face_px": 40}
    run(face_engine, tmp_path / "in.png", max_faces=7, **fields)
    assert looked_with == [
        FaceOptions(),
        FaceOptions(threshold=0.5, only_largest=True, min_face_px=40, max_faces=7),
    ]


def test_the_strength_is_the_part_of_the_change_that_is_taken(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    give_faces(monkeypatch, [face_at(60, 48, 60)])
    crops = restore_as(monkeypatch, lambda crop: np.clip(crop + np.float32(0.25), 0, 1))
    pixels = np.full((97, 121, 3), 100, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    middles = []
    for strength in (0, 0.2, 0.6, 1):
        outcome = run(face_engine, tmp_path / "in.png", strength=strength)
        middles.append(int(read(outcome)[50, 60, 0]))
    assert middles[0] == 100
    assert middles == sorted(set(middles))
    assert abs(middles[-1] - 164) <= 1
    assert len(crops) == 3


def test_without_strength_or_without_a_face_no_network_is_loaded(
    tmp_path: Path, monkeypatch: Any
) -> None:
    # A file that no network could be loaded from.
    path = face_model(tmp_path / "models")
    path.write_bytes(b"no weights")
    engine = FaceEngine(Settings(model_dir=tmp_path / "models"))
    engine.start()
    pixels = write(tmp_path / "in.png", 3, 8)
    give_faces(monkeypatch, FACES)
    outcome = run(engine, tmp_path / "in.png", strength=0)
    assert np.array_equal(read(outcome), pixels)
    assert outcome.faces is not None
    assert [face.why for face in outcome.faces] == ["strength is 0"] * 2 + ["too small"]
    give_faces(monkeypatch, [])
    outcome = run(engine, tmp_path / "in.png")
    assert np.array_equal(read(outcome), pixels)
    assert outcome.faces == []
    give_faces(monkeypatch, FACES)
    with pytest.raises(JobError) as refused:
        run(engine, tmp_path / "in.png")
    assert refused.value.code == ErrorCode.MODEL_CORRUPT


@pytest.mark.parametrize("engine_class", [FaceEngine, EsrganEngine])
def test_a_loaded_model_is_not_used_once_its_file_was_removed_or_replaced(
    tmp_path: Path, monkeypatch: Any, engine_class: Any
) -> None:
    def colour_of(network: FaceNetwork, crop: Floats) -> Floats:
        # What the network would give, without the time to compute it.
        bias = network._model.get_parameter("decoder.conv_out.bias")
        return np.full_like(crop, (float(bias[0]) + 1) / 2)

    monkeypatch.setattr(FaceNetwork, "restore", colour_of)
    give_faces(monkeypatch, FACES[:1])
    path = face_model(tmp_path, restoreformer(-0.5))
    engine = engine_class(Settings(model_dir=tmp_path))
    engine.start()
    Image.new("RGB", (121, 97), "white").save(tmp_path / "in.png")

    def restored() -> int:
        given: Any = {
            "image_path": str(tmp_path / "in.png"),
            "output_path": str(tmp_path / "out.png"),
            "upscale_factor": 1,
        }
        config = (
            FaceConfig(**given) if engine_class is FaceEngine else EsrganConfig(**given, faces=True)
        )
        return int(read(engine.run(config, RecordingContext()))[45, 60, 0])

    assert restored() == 64
    face_model(tmp_path, restoreformer(0.0))
    assert restored() == 128
    path.write_bytes(b"no weights")
    with pytest.raises(JobError) as refused:
        restored()
    assert refused.value.code == ErrorCode.MODEL_CORRUPT
    path.unlink()
    with pytest.raises(JobError) as refused:
        restored()
    assert refused.value.code == ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("engine_class", [FaceEngine, EsrganEngine])
def test_a_missing_model_is_told_with_its_command_before_the_picture_is_opened(
    tmp_path: Path, engine_class: Any
) -> None:
    engine = engine_class(Settings(model_dir=tmp_path))
    engine.start()
    config: Any = (
        FaceConfig(image_path="/nowhere.png")
        if engine_class is FaceEngine
        else EsrganConfig(image_path="/nowhere.png", faces=True)
    )
    with pytest.raises(JobError) as refused:
        engine.run(config, RecordingContext())
    assert refused.value.code == ErrorCode.MODEL_NOT_FOUND
    assert refused.value.message == (
        "the model GFPGANv1.4 is not installed: run `upscaled models pull GFPGANv1.4`"
    )


def test_the_engine_names_its_models_and_what_it_lacks(tmp_path: Path) -> None:
    engine = FaceEngine(Settings(model_dir=tmp_path))
    assert engine.models() == []
    assert engine.lacks() == ("no face model is installed: run `upscaled models pull GFPGANv1.4`")
    own = face_model(tmp_path).with_name("mine.pth")
    own.write_bytes(b"")
    assert engine.models() == ["GFPGANv1.4", "mine"]
    assert engine.lacks() is None


def fail(error: Exception) -> Restored:
    def restore(_crop: Floats) -> Floats:
        raise error

    return restore


@pytest.mark.usefixtures("looked_with")
@pytest.mark.parametrize(
    ("restored", "code"),
    [
        (lambda crop: crop * np.float32("nan"), ErrorCode.MODEL_CORRUPT),
        (fail(torch.OutOfMemoryError("no memory")), ErrorCode.OUT_OF_MEMORY),
        (fail(JobError(ErrorCode.CANCELLED, "cancelled")), ErrorCode.CANCELLED),
    ],
)
def test_a_face_that_fails_ends_the_job_with_its_code_and_leaves_no_file(
    tmp_path: Path,
    face_engine: FaceEngine,
    monkeypatch: Any,
    restored: Restored,
    code: ErrorCode,
) -> None:
    restore_as(monkeypatch, restored)
    write(tmp_path / "in.png", 3, 8)
    with pytest.raises(JobError) as failed:
        run(face_engine, tmp_path / "in.png")
    assert failed.value.code == code
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.usefixtures("looked_with")
def test_a_fault_of_the_network_is_no_success(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, fail(RuntimeError("shapes do not match")))
    write(tmp_path / "in.png", 3, 8)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run(face_engine, tmp_path / "in.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


@pytest.mark.usefixtures("looked_with")
def test_after_lack_of_memory_a_face_is_tried_once_more(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    failures = [torch.OutOfMemoryError("no memory")]

    def restored(crop: Floats) -> Floats:
        if failures:
            raise failures.pop()
        return crop

    crops = restore_as(monkeypatch, restored)
    pixels = write(tmp_path / "in.png", 3, 8)
    assert np.array_equal(read(run(face_engine, tmp_path / "in.png")), pixels)
    assert len(crops) == 3


@pytest.mark.usefixtures("looked_with")
def test_if_half_precision_fails_the_face_is_restored_in_fp32(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    monkeypatch.setattr(restoration, "choose_dtype", lambda *_: (torch.bfloat16, None))
    used: list[torch.dtype] = []

    def restore(network: FaceNetwork, crop: Floats) -> Floats:
        used.append(network.dtype)
        return crop * np.float32("nan" if network.dtype == torch.bfloat16 else "1")

    monkeypatch.setattr(FaceNetwork, "restore", restore)
    pixels = write(tmp_path / "in.png", 3, 8)
    context = RecordingContext()
    outcome = run(face_engine, tmp_path / "in.png", context)
    assert np.array_equal(read(outcome), pixels)
    assert used == [torch.bfloat16, torch.float32, torch.float32]
    assert context.warnings == ["half precision failed with this face model: fp32 was used"]
    assert outcome.precision == "fp32"


@pytest.mark.usefixtures("looked_with")
def test_progress_counts_the_faces_and_a_cancel_ends_the_job(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any
) -> None:
    restore_as(monkeypatch, same)
    write(tmp_path / "in.png", 3, 8)
    context = RecordingContext()
    run(face_engine, tmp_path / "in.png", context)
    assert context.tiles == [(0, 2), (1, 2)]
    assert "find faces" in context.stages
    with pytest.raises(JobError) as cancelled:
        run(face_engine, tmp_path / "in.png", RecordingContext(cancel_at=50))
    assert cancelled.value.code == ErrorCode.CANCELLED


SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (64, 65), (5, 400), (400, 5)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_pictures_of_any_size_take_faces_that_lie_anywhere(
    tmp_path: Path, face_engine: FaceEngine, monkeypatch: Any, height: int, width: int
) -> None:
    places = [(0, 0, 40), (width, height, 3), (width / 2, height / 2, 700), (-90, 5, 50)]
    give_faces(monkeypatch, [face_at(*place) for place in places])
    restore_as(monkeypatch, same)
    pixels = write(tmp_path / "in.png", 3, 8, height, width)
    outcome = run(face_engine, tmp_path / "in.png")
    assert np.array_equal(read(outcome), pixels)
    assert outcome.faces is not None
    assert outcome.faces[-1].why == "cropped off"


def test_a_picture_keeps_its_size_unless_another_is_asked_for() -> None:
    assert FaceConfig(image_path="a").factor == 1
    assert FaceConfig(image_path="a", upscale_factor=2).factor == 2
    assert FaceConfig(image_path="a", upscale_model="tiny").factor is None


def test_a_real_face_is_found_and_restored(tmp_path: Path, face_engine: FaceEngine) -> None:
    photograph = Path(__file__).parents[3] / "examples" / "astronaut.jpg"
    outcome = run(face_engine, photograph, output_path=str(tmp_path / "out.png"))
    assert outcome.faces is not None
    assert [face.restored for face in outcome.faces] == [True]
    written = read(outcome)
    changed = (written != pyvips.Image.new_from_file(str(photograph)).numpy()).any(2)
    box = outcome.faces[0].box
    middle = (slice(int(box.y), int(box.y + box.height)), slice(int(box.x), int(box.x + box.width)))
    assert changed[middle].mean() > 0.9
    assert not changed[:, 160:].any()
    assert not changed[120:].any()
    # The network gives -0.5 for everything.
    nose = outcome.faces[0].points[2]
    assert np.abs(written[int(nose.y), int(nose.x)].astype(int) - 64).max() < 6
