"""The engine from file to file, as the worker calls it."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import pyvips
import torch
from torch import nn

from garbage import without_garbage
from recording import RecordingContext
from tiny_networks import USES_BF16, compact, psnr, random_picture, rrdb, save, smooth_picture
from upscaled_models.engine import Outcome, Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.enlargement import EsrganEnlargement
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size
from waiting import TIMEOUT_S, wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds the model folder, with one x4 network and one x2 network in it."""
    models = tmp_path / "models" / "upscale_models"
    models.mkdir(parents=True)
    save(compact(), models / "tiny-x4.safetensors")
    save(compact(scale=2), models / "tiny-x2.pth")
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[EsrganEngine]:
    engine = EsrganEngine(Settings(model_dir=folder / "models"))
    engine.start()
    yield engine
    engine.close()


def write(path: Path, pixels: np.ndarray) -> Path:
    """Gray, gray and alpha, RGB or RGBA by the number of bands."""
    image = pyvips.Image.new_from_array(pixels)
    gray, deep = pixels.shape[2] < 3, pixels.dtype == np.uint16
    kind = ("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb")
    image.copy(interpretation=kind).write_to_file(str(path))
    return path


def read(path: str | Path | None) -> np.ndarray:
    pixels = pyvips.Image.new_from_file(str(path)).numpy()
    return cast(np.ndarray, pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis])


def photograph(height: int = 60, width: int = 80, bits: int = 8) -> np.ndarray:
    picture = smooth_picture(height, width)[0].permute(1, 2, 0).numpy()
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels: np.ndarray = np.rint(picture.clip(0, 1) * (2**bits - 1)).astype(dtype)
    return pixels


def run(
    engine: EsrganEngine,
    path: Path,
    context: RecordingContext | None = None,
    **fields: Any,
) -> Outcome:
    fields = {"model": "tiny-x4", "output_path": str(path.parent / "out.png")} | fields
    config = EsrganConfig(image_path=str(path), **fields)
    return engine.run(config, context or RecordingContext())


def test_importing_the_engine_imports_nothing_heavy() -> None:
    import subprocess

    heavy = "import upscaled_models.esrgan.engine, sys; print([name for name in "
    heavy += "('torch', 'numpy', 'spandrel', 'pyvips') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", heavy], capture_output=True, check=True, timeout=TIMEOUT_S
    )
    assert done.stdout.strip() == b"[]"


def test_a_picture_comes_out_four_times_as_large_and_right(
    engine: EsrganEngine, folder: Path
) -> None:
    pixels = photograph()
    context = RecordingContext()
    outcome = run(engine, write(folder / "in.png", pixels), context, precision="fp32")
    assert outcome.input_size == Size(width=80, height=60)
    assert outcome.output_size == Size(width=320, height=240)
    assert (outcome.model, outcome.device, outcome.precision) == ("tiny-x4", "cpu", "fp32")
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.inference_mode():
        expected = compact()(picture)[0].permute(1, 2, 0)
    expected = (expected * 255).round().clamp(0, 255).byte().numpy()
    # For small pictures the module itself takes other kernels, a last bit apart.
    difference = read(outcome.output_path).astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert np.abs(difference).mean() < 1e-3
    assert context.warnings == []


def test_what_a_job_holds_is_freed_at_its_end(engine: EsrganEngine, folder: Path) -> None:
    picture = write(folder / "in.png", photograph())
    with without_garbage():
        run(engine, picture)
        run(engine, picture, upscale_factor=8)
    with without_garbage(), contextlib.suppress(JobError):
        run(engine, picture, RecordingContext(cancel_at=30), tile_size=32)
    picture.write_bytes(picture.read_bytes()[:-200])
    with without_garbage(), contextlib.suppress(JobError):
        run(engine, picture)


def test_progress_comes_near_the_end_and_counts_tiles(engine: EsrganEngine, folder: Path) -> None:
    context = RecordingContext()
    run(engine, write(folder / "in.png", photograph(200, 100)), context, tile_size=32)
    # In between it is an estimate from times and may fall: a job shows the highest until then.
    assert context.percents[0] == 0
    assert 85 < context.percents[-1] <= 100
    done = [count for count, _ in context.tiles]
    assert done == list(range(1, len(done) + 1))
    assert {"load", "decode", "inference", "encode"} <= set(context.phases)


def test_half_precision_is_close_to_full(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph(100, 100))
    full = read(run(engine, path, use_fp16=False).output_path)
    outcome = run(engine, path)
    assert outcome.precision == ("bf16" if USES_BF16 else "fp32")
    assert psnr(read(outcome.output_path), full, 255) >= 50


def test_use_fp16_false_forces_full_precision(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph())
    assert run(engine, path, use_fp16=False, precision="bf16").precision == "fp32"


def test_fp16_is_replaced_on_a_processor_with_a_warning(engine: EsrganEngine, folder: Path) -> None:
    context = RecordingContext()
    outcome = run(engine, write(folder / "in.png", photograph()), context, precision="fp16")
    assert outcome.precision != "fp16"
    assert "fp16" in context.warnings[0]


@pytest.mark.parametrize("tile_size", [32, 47, 64, 1000])
def test_the_tile_size_does_not_change_the_picture(
    engine: EsrganEngine, folder: Path, tile_size: int
) -> None:
    path = write(folder / "in.png", photograph(90, 131))
    untiled = read(run(engine, path).output_path)
    assert np.array_equal(read(run(engine, path, tile_size=tile_size).output_path), untiled)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("model", ["tiny-x4", "gray-x4"])
def test_bands_and_bits_are_kept(
    engine: EsrganEngine, folder: Path, bands: int, bits: int, model: str
) -> None:
    from spandrel.architectures.Compact import Compact

    torch.manual_seed(0)
    gray = Compact(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=4)
    save(gray, folder / "models" / "upscale_models" / "gray-x4.safetensors")
    top = 2**bits - 1
    colours = photograph(40, 50, bits)
    alpha = np.full((40, 50, 1), top, colours.dtype)
    alpha[10:30, 10:30] = 0
    pixels = {
        1: colours[:, :, :1],
        2: np.concatenate((colours[:, :, :1], alpha), 2),
        3: colours,
        4: np.concatenate((colours, alpha), 2),
    }[bands]
    out = read(run(engine, write(folder / "in.png", pixels), model=model).output_path)
    assert out.shape == (160, 200, bands)
    assert out.dtype == pixels.dtype
    nearest = pixels.repeat(4, 0).repeat(4, 1)
    if bands in {1, 3}:
        assert psnr(out, nearest, top) > 15
    else:
        # Away from the edge of the hole alpha is what it was, and it never passes its neighbours.
        assert np.array_equal(out[60:100, 60:100, -1], nearest[60:100, 60:100, -1])
        assert np.array_equal(out[:32, :, -1], nearest[:32, :, -1])
        assert set(np.unique(out[:, :, -1])) > {0, top}


def test_sixteen_bits_per_channel_are_kept(engine: EsrganEngine, folder: Path) -> None:
    pixels = photograph(40, 50, bits=16)
    outcome = run(engine, write(folder / "in.png", pixels))
    assert outcome.precision == "fp32"
    out = read(outcome.output_path)
    assert len(np.unique(out)) > 10_000


@pytest.mark.parametrize(
    ("factor", "model", "size"),
    [
        (1.0, "tiny-x4", (80, 60)),
        (2.0, "tiny-x4", (160, 120)),
        (3.0, "tiny-x2", (240, 180)),
        (4.0, "tiny-x2", (320, 240)),
        (2.5, "tiny-x4", (200, 150)),
        (8.0, "tiny-x2", (640, 480)),
        (8.0, "tiny-x4", (640, 480)),
        (16.0, "tiny-x4", (1280, 960)),
    ],
)
def test_any_factor_comes_from_any_model(
    engine: EsrganEngine, folder: Path, factor: float, model: str, size: tuple[int, int]
) -> None:
    pixels = photograph()
    path = write(folder / "in.png", pixels)
    outcome = run(engine, path, upscale_factor=factor, model=model)
    assert outcome.scale_factor == factor
    out = read(outcome.output_path)
    assert out.shape == (size[1], size[0], 3)
    # The networks disturb the picture a little, but it stays that picture.
    image = pyvips.Image.new_from_array(out).resize(80 / size[0], kernel="linear")
    assert psnr(image.numpy(), pixels, 255) > 15


def test_two_passes_give_what_two_jobs_give(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph(bits=16))
    once = run(engine, path, model="tiny-x2", upscale_factor=2, output_path=str(folder / "2.png"))
    twice = run(engine, Path(str(once.output_path)), model="tiny-x2", upscale_factor=2)
    expected = read(twice.output_path).astype(int)
    at_once = read(run(engine, path, model="tiny-x2", upscale_factor=4).output_path)
    # Between the passes of one job nothing is rounded to 16 bits.
    assert np.abs(at_once - expected).max() <= 8


def test_a_print_size_is_met_to_the_pixel(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph())
    outcome = run(
        engine,
        path,
        target_width_inches=2.0,
        target_height_inches=1.0,
        target_dpi=100,
        crop="center",
    )
    assert outcome.output_size == Size(width=200, height=100)
    assert outcome.crop_info is not None
    assert outcome.crop_info.amount_px == 50
    assert read(outcome.output_path).shape == (100, 200, 3)


def test_a_small_stretch_needs_no_second_pass(engine: EsrganEngine, folder: Path) -> None:
    context = RecordingContext()
    path = write(folder / "in.png", photograph())
    run(engine, path, context, target_width=322, target_height=241)
    alone = RecordingContext()
    run(engine, path, alone)
    assert context.tiles == alone.tiles


def job_threads() -> set[threading.Thread]:
    """Those of jobs alone: the ones that compute and compress stay for the next."""
    return {one for one in threading.enumerate() if one.name in ("decoder", "encoder")}


def test_a_cancelled_job_stops_at_the_next_tile_and_leaves_no_file(
    engine: EsrganEngine, folder: Path
) -> None:
    path = write(folder / "in.png", photograph(300, 100))
    before = set(folder.iterdir())
    others = set(threading.enumerate())  # what other tests left running
    context = RecordingContext(cancel_at=30)
    with pytest.raises(JobError) as caught:
        run(engine, path, context, tile_size=32)
    assert caught.value.code is ErrorCode.CANCELLED
    assert context.percents[-1] < 40
    assert set(folder.iterdir()) == before
    wait_until(lambda: not job_threads() - others, "the end of the job's threads")
    assert run(engine, path).output_path is not None


def test_a_broken_input_ends_its_job_and_the_next_job_works(
    engine: EsrganEngine, folder: Path
) -> None:
    path = write(folder / "in.png", np.random.default_rng(0).integers(0, 255, (300, 90, 3), "u1"))
    broken = folder / "broken.png"
    broken.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(JobError) as caught:
        run(engine, broken)
    assert caught.value.code is ErrorCode.INPUT_UNREADABLE
    assert not (folder / "out.png").exists()
    assert run(engine, path).output_path is not None


def test_the_error_of_a_missing_model_has_its_name(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph())
    with pytest.raises(JobError, match=r"upscaled models pull 4x-UltraSharp") as caught:
        run(engine, path, model="4x-UltraSharp")
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_a_weights_file_can_be_given_by_its_path(engine: EsrganEngine, folder: Path) -> None:
    weights = save(rrdb(features=4), folder / "mine.pth")
    path = write(folder / "in.png", photograph(20, 20))
    outcome = run(engine, path, model=str(weights))
    assert outcome.output_size == Size(width=80, height=80)
    assert engine.models_loaded() == ["mine"]


def test_models_are_kept_until_they_are_trimmed(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph(20, 20))
    assert set(engine.models()) >= {"tiny-x4", "tiny-x2"}
    assert engine.models_loaded() == []
    run(engine, path)
    run(engine, path, model="tiny-x2")
    assert engine.models_loaded() == ["tiny-x4", "tiny-x2"]
    engine.trim(idle_only=True)
    assert engine.models_loaded() == ["tiny-x4", "tiny-x2"]
    engine.trim()
    assert engine.models_loaded() == []


def test_a_replaced_file_is_another_model(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", photograph())
    weights = folder / "models" / "upscale_models" / "tiny-x4.safetensors"
    first = read(run(engine, path).output_path)
    spare = save(compact(seed=5), folder / "spare.safetensors")
    spare.replace(weights)
    assert not np.array_equal(read(run(engine, path).output_path), first)


@pytest.mark.parametrize("damage", ["gone", "cut off"])
def test_a_loaded_model_is_used_while_its_file_cannot_be_read(
    engine: EsrganEngine, folder: Path, damage: str
) -> None:
    path = write(folder / "in.png", photograph())
    weights = folder / "models" / "upscale_models" / "tiny-x4.safetensors"
    first = read(run(engine, path).output_path)
    whole = weights.read_bytes()
    weights.unlink()
    if damage == "cut off":
        weights.write_bytes(whole[:1000])
    context = RecordingContext()
    assert np.array_equal(read(run(engine, path, context).output_path), first)
    assert any("loaded before is still used" in warning for warning in context.warnings)
    save(compact(seed=5), folder / "spare.safetensors").replace(weights)
    assert not np.array_equal(read(run(engine, path).output_path), first)
    weights.unlink()
    engine.trim()  # it is in memory no longer
    with pytest.raises(JobError):
        run(engine, path)


def test_models_to_preload_are_loaded_at_the_start(folder: Path) -> None:
    settings = Settings(model_dir=folder / "models", preload=("tiny-x2", "flux1-dev-Q8_0"))
    engine = EsrganEngine(settings)
    engine.start()
    assert engine.models_loaded() == ["tiny-x2"]
    missing = EsrganEngine(Settings(model_dir=folder / "models", preload=("4x-UltraSharp",)))
    with pytest.raises(JobError, match="4x-UltraSharp"):
        missing.start()


def test_an_unknown_device_is_an_error_at_the_start(folder: Path) -> None:
    engine = EsrganEngine(Settings(model_dir=folder / "models", device="abacus"))
    with pytest.raises(JobError, match="abacus"):
        engine.start()


def test_jobs_of_two_threads_share_the_device_and_come_out_right(
    engine: EsrganEngine, folder: Path
) -> None:
    turn = threading.Lock()
    paths = []
    for index in range(6):
        pixels = random_picture(50 + index, 60, seed=index)[0].permute(1, 2, 0).numpy() * 255
        paths.append(write(folder / f"in{index}.png", pixels.astype(np.uint8)))

    def job(index: int) -> np.ndarray:
        context = RecordingContext(f"job-{index}", turn=turn)
        output = str(folder / f"out{index}.png")
        model = ("tiny-x4", "tiny-x2")[index % 2]
        return read(run(engine, paths[index], context, model=model, output_path=output).output_path)

    with ThreadPoolExecutor(2) as lane:
        together = list(lane.map(job, range(6), timeout=TIMEOUT_S))
    for index, result in enumerate(together):
        assert np.array_equal(result, job(index))


def test_the_next_picture_is_decoded_while_the_device_is_taken(
    engine: EsrganEngine, folder: Path
) -> None:
    turn = threading.Lock()
    decoded = threading.Event()

    class Watching(RecordingContext):
        def phase(self, phase: Any) -> Any:
            if phase == "decode" and self.phases.count("decode") == 1:
                decoded.set()
            return super().phase(phase)

    context = Watching("second", turn=turn)
    path = write(folder / "in.png", photograph(100, 100))
    with turn:
        thread = threading.Thread(target=run, args=(engine, path, context))
        thread.start()
        assert decoded.wait(TIMEOUT_S)
        assert "inference" not in context.phases
    thread.join(TIMEOUT_S)
    assert "inference" in context.phases


def drowning() -> nn.Module:
    """A network whose every signal is lost in bf16, beside a large constant."""
    model = rrdb(features=4)
    with torch.no_grad():
        for parameter in model.parameters():
            # Not zero: a file whose layers hold only zeros is refused.
            parameter.fill_(1e-30)
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
        for layer in (layers[0], *layers[-4:]):
            layer.weight[0, 0, 1, 1] = 1.0
        assert layers[0].bias is not None
        assert layers[-1].bias is not None
        layers[0].bias[0] = 1e4
        layers[-1].weight[:, 0, 1, 1] = 1.0
        layers[-1].bias[:] = -1e4
    return model


@pytest.mark.skipif(not USES_BF16, reason="bf16 is not used on this machine")
def test_a_model_that_is_black_in_half_precision_is_used_in_full_precision(
    engine: EsrganEngine, folder: Path
) -> None:
    save(drowning(), folder / "models" / "upscale_models" / "drowning.safetensors")
    path = write(folder / "in.png", photograph())
    context = RecordingContext()
    outcome = run(engine, path, context, model="drowning")
    assert outcome.precision == "fp32"
    assert any("fp32" in warning for warning in context.warnings)
    assert len(np.unique(read(outcome.output_path))) > 50
    again = RecordingContext()
    assert run(engine, path, again, model="drowning").precision == "fp32"
    assert again.warnings == []


@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_model_that_computes_no_numbers_ends_the_job_and_leaves_no_file(
    engine: EsrganEngine, folder: Path, precision: str
) -> None:
    model = compact()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e30)
    save(model, folder / "models" / "upscale_models" / "huge.safetensors")
    with pytest.raises(JobError) as failed:
        run(engine, write(folder / "in.png", photograph()), model="huge", precision=precision)
    assert failed.value.code == ErrorCode.MODEL_CORRUPT
    assert failed.value.message.startswith("huge gave a picture that holds no numbers")
    assert not (folder / "out.png").exists()


def test_a_job_that_ran_out_of_memory_unloads_what_it_does_not_need(
    engine: EsrganEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(folder / "in.png", photograph())
    expected = read(run(engine, path).output_path)
    run(engine, path, model="tiny-x2")
    failures = iter([MemoryError()])
    note_tile = EsrganEnlargement.tile_done

    def fail_once(job: EsrganEnlargement) -> None:
        note_tile(job)
        if job._steps[0].stages[0].tiles_done == 2:
            for failure in failures:
                raise failure

    monkeypatch.setattr(EsrganEnlargement, "tile_done", fail_once)
    context = RecordingContext()
    assert np.array_equal(read(run(engine, path, context, tile_size=32).output_path), expected)
    assert engine.models_loaded() == ["tiny-x4"]
    assert any("memory" in warning for warning in context.warnings)


def test_a_result_can_be_given_as_base64(engine: EsrganEngine, folder: Path) -> None:
    import base64

    path = write(folder / "in.png", photograph(20, 20))
    outcome = run(engine, path, output_path=None, output_base64=True)
    assert outcome.output_path is None
    assert outcome.output_base64 is not None
    assert base64.b64decode(outcome.output_base64).startswith(b"\x89PNG")
