"""Networks of scale 1: alone, and as the first step of a job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import pyvips
import torch
from torch import Tensor, nn
from torch.nn import functional

from recording import RecordingContext
from tiny_networks import CPU, compact, network, save, smooth_picture, weights
from upscaled_imaging.dimensions import plan_size
from upscaled_models.engine import Outcome, Settings
from upscaled_models.esrgan.architectures import MAIN_REGISTRY, ImageModelDescriptor
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.enlargement import EsrganEnlargement
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.step import Loaded
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

HEIGHT, WIDTH = 45, 61


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the model folder: two networks of scale 1, one of them for gray, and one of scale 2."""
    from spandrel.architectures.Compact import Compact

    folder = tmp_path_factory.mktemp("restoration")
    models = folder / "models" / "upscale_models"
    models.mkdir(parents=True)
    save(compact(scale=1, seed=1), models / "restore.safetensors")
    gray = Compact(num_in_ch=1, num_out_ch=1, num_feat=4, num_conv=1, upscale=1)
    save(gray, models / "restore-gray.safetensors")
    save(compact(scale=2), models / "x2.safetensors")
    return folder


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[EsrganEngine]:
    engine = EsrganEngine(Settings(model_dir=folder / "models"))
    engine.start()
    yield engine
    engine.close()


def picture(bands: int = 3, bits: int = 8) -> np.ndarray:
    """With alpha that differs from pixel to pixel."""
    colours = smooth_picture(HEIGHT, WIDTH)[0].permute(1, 2, 0).numpy()
    alpha = np.random.default_rng(0).random((HEIGHT, WIDTH, 1), np.float32)
    parts = [colours if bands > 2 else colours[:, :, :1], *([] if bands % 2 else [alpha])]
    values = np.concatenate(parts, 2).clip(0, 1)
    pixels: np.ndarray = np.rint(values * (2**bits - 1)).astype(f"uint{bits}")
    return pixels


def write(path: Path, pixels: np.ndarray) -> Path:
    gray, deep = pixels.shape[2] < 3, pixels.dtype == np.uint16
    kind = ("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb")
    pyvips.Image.new_from_array(pixels).copy(interpretation=kind).write_to_file(str(path))
    return path


def read(path: str | Path | None) -> np.ndarray:
    pixels = pyvips.Image.new_from_file(str(path)).numpy()
    return cast(np.ndarray, pixels if pixels.ndim == 3 else pixels[:, :, np.newaxis])


def run(
    engine: EsrganEngine, path: Path, context: RecordingContext | None = None, **fields: Any
) -> Outcome:
    fields = {"output_path": str(path.parent / "out.png"), "precision": "fp32"} | fields
    config = EsrganConfig(image_path=str(path), **fields)
    return engine.run(config, context or RecordingContext())


def test_a_network_of_scale_1_restores_a_picture_at_its_size(
    engine: EsrganEngine, folder: Path
) -> None:
    pixels = picture()
    context = RecordingContext()
    path = write(folder / "in.png", pixels)
    outcome = run(engine, path, context, model="restore", upscale_factor=1)
    source = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0) / 255
    with torch.inference_mode():
        expected = compact(scale=1, seed=1)(source)[0].permute(1, 2, 0).numpy()
    expected = np.rint(expected.clip(0, 1) * 255)
    out = read(outcome.output_path)
    assert np.abs(out - expected).max() <= 1
    assert np.abs(out.astype(int) - pixels).max() > 10
    assert (outcome.scale_factor, outcome.precision) == (1.0, "fp32")
    assert context.warnings == []
    assert context.percents == sorted(context.percents)


def test_without_a_factor_its_result_has_the_size_of_the_input_and_says_so(
    engine: EsrganEngine, folder: Path
) -> None:
    path = write(folder / "in.png", picture())
    context = RecordingContext()
    outcome = run(engine, path, context, model="restore")
    assert outcome.output_size == Size(width=WIDTH, height=HEIGHT)
    assert outcome.scale_factor == 1
    assert any("restore does not enlarge" in warning for warning in context.warnings)
    other = RecordingContext()
    assert run(engine, path, other, model="x2").scale_factor == 4
    # A target states the size, so there is nothing to say.
    assert run(engine, path, other, model="restore", target_width=WIDTH).scale_factor == 1
    assert other.warnings == []


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
@pytest.mark.parametrize("model", ["restore", "restore-gray"])
def test_bands_and_bits_are_kept_and_alpha_is_not_touched(
    engine: EsrganEngine, folder: Path, bands: int, bits: int, model: str
) -> None:
    pixels = picture(bands, bits)
    path = write(folder / "in.png", pixels)
    alone = read(run(engine, path, model=model, upscale_factor=1, tile_size=32).output_path)
    assert (alone.shape, alone.dtype) == (pixels.shape, pixels.dtype)
    if bands % 2 == 0:
        assert np.array_equal(alone[:, :, -1], pixels[:, :, -1])
    both = run(engine, path, model="x2", pre_model=model, upscale_factor=2)
    assert read(both.output_path).shape == (2 * HEIGHT, 2 * WIDTH, bands)


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("first", ["restore", "restore-gray"])
def test_both_networks_in_one_job_give_what_two_jobs_give(
    engine: EsrganEngine, folder: Path, bands: int, first: str
) -> None:
    path = write(folder / "in.png", picture(bands, 16))
    between = str(folder / "between.png")
    run(engine, path, model=first, upscale_factor=1, output_path=between)
    expected = read(run(engine, Path(between), model="x2", upscale_factor=2).output_path)
    fields: dict[str, Any] = {"model": "x2", "pre_model": first, "upscale_factor": 2}
    at_once = read(run(engine, path, **fields, tile_size=32).output_path)
    # Between the networks of one job nothing is rounded to 16 bits.
    assert np.abs(at_once.astype(int) - expected).max() <= 8
    assert {first, "x2"} <= set(engine.models_loaded())


def test_a_first_step_beside_factor_1_is_the_only_one(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", picture())
    alone = read(run(engine, path, model="restore", upscale_factor=1).output_path)
    outcome = run(engine, path, model="x2", pre_model="restore", upscale_factor=1)
    assert np.array_equal(read(outcome.output_path), alone)
    # Without one, factor 1 is a copy, as ever.
    copy = run(engine, path, model="x2", upscale_factor=1)
    assert np.array_equal(read(copy.output_path), picture())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": "restore", "upscale_factor": 2}, "restore does not enlarge"),
        ({"model": "restore", "upscale_factor": 1.5}, "asks for 92x68 pixels from 61x45"),
        ({"model": "x2", "pre_model": "x2"}, "pre_model x2 enlarges 2 times"),
    ],
)
def test_a_network_that_cannot_have_its_part_is_refused(
    engine: EsrganEngine, folder: Path, fields: dict[str, Any], words: str
) -> None:
    path = write(folder / "in.png", picture())
    with pytest.raises(JobError, match=words) as caught:
        run(engine, path, output_path=str(folder / "refused.png"), **fields)
    assert caught.value.code is ErrorCode.INVALID_JOB
    assert not (folder / "refused.png").exists()


def test_a_first_step_that_is_not_installed_is_named(engine: EsrganEngine, folder: Path) -> None:
    path = write(folder / "in.png", picture())
    with pytest.raises(JobError, match="gone-1x") as caught:
        run(engine, path, model="x2", pre_model="gone-1x")
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


class Rows:
    """A picture that counts the rows that were not read yet."""

    bands, bits, has_alpha, width, height = 3, 8, False, 40, 4000
    rows_left = height

    def rows(self, count: int) -> np.ndarray:
        count = min(count, self.rows_left)
        self.rows_left -= count
        return np.zeros((count, self.width, self.bands), np.uint8)


def job_of(
    source: Rows, first: Any, second: Any, context: RecordingContext | None = None
) -> EsrganEnlargement:
    config = EsrganConfig(image_path="in.png", upscale_factor=2)
    size = Size(width=source.width, height=source.height)
    return EsrganEnlargement(
        Loaded("second", second, lambda: second),
        cast(Any, source),
        plan_size(config, size, factor=2, default_dpi=150),
        before=Loaded("first", first, lambda: first),
        tile_size=32,
        context=context or RecordingContext(),
        memory_bytes=2**30,
        free_memory=lambda: None,
    )


def test_rows_of_the_first_step_go_to_the_second_while_others_are_still_read() -> None:
    source = Rows()
    job = job_of(source, network(compact(scale=1)), network(compact(scale=2)))
    rows = job.upscale(job.read())
    given = [len(next(rows)) for _ in range(4)]
    assert sum(given) > 100
    assert source.rows_left > source.height - sum(given)
    rows.close()


def test_a_first_step_of_another_precision_is_told() -> None:
    first, second = network(compact(scale=1)), network(compact(scale=2))
    second.dtype = torch.bfloat16
    context = RecordingContext()
    assert job_of(Rows(), first, second, context).precision == "bf16"
    assert context.warnings == ["the pre_model first was computed in fp32"]


def test_a_network_that_gets_a_map_of_noise_is_called_as_its_architecture_says() -> None:
    from spandrel.architectures.DnCNN import DnCNN

    torch.manual_seed(0)
    model = DnCNN(in_nc=4, out_nc=3, nc=8, nb=9, act_mode="R", mode="FDnCNN").eval()
    source = smooth_picture(HEIGHT, WIDTH)
    noise = torch.full((1, 1, HEIGHT, WIDTH), 15 / 255)
    with torch.inference_mode():
        expected = model(torch.cat([source, noise], 1)).clamp(0, 1)
    assert torch.allclose(whole(network(model), source), expected, atol=1e-6)


class Convolved(nn.Module):
    """Has a weight of five dimensions, and cannot take low pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3, 3, 1, 3, 3))

    def forward(self, picture: Tensor) -> Tensor:
        if picture.shape[2] < 10:
            raise RuntimeError("it is too low")
        return functional.conv3d(picture.unsqueeze(2), self.weight, padding=(0, 1, 1)).squeeze(2)


def of_five_dimensions() -> Network:
    module = Convolved()
    compact_ = MAIN_REGISTRY.load(weights(compact(scale=1)))
    descriptor = ImageModelDescriptor(
        module,
        module.state_dict(),
        architecture=compact_.architecture,
        purpose="Restoration",
        tags=[],
        supports_half=True,
        supports_bfloat16=True,
        scale=1,
        input_channels=3,
        output_channels=3,
    )
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return Network(descriptor, CPU, torch.float32)


def test_a_network_with_weights_of_five_dimensions_runs() -> None:
    source = smooth_picture(HEIGHT, WIDTH)
    small = of_five_dimensions()
    assert not small.by_rows
    assert torch.equal(whole(small, source), small._descriptor(source))


def test_a_network_that_cannot_compute_a_picture_is_told_by_its_architecture() -> None:
    small = of_five_dimensions()
    with pytest.raises(JobError, match=r"Compact\) failed on 61x5 pixels.*too low") as caught:
        whole(small, smooth_picture(5, WIDTH))
    assert caught.value.code is ErrorCode.INVALID_JOB


def test_a_network_of_another_scale_than_its_architecture_says_is_told() -> None:
    small = of_five_dimensions()
    small.scale = 2
    # As a whole, and when it is measured before a picture is cut.
    for run in (lambda: whole(small, smooth_picture(HEIGHT, WIDTH)), lambda: small.geometry):
        with pytest.raises(JobError, match=r"Compact\) made (\d+x\d+) of \1 pixels") as caught:
            run()
        assert caught.value.code is ErrorCode.INVALID_JOB


def whole(small: Network, source: Tensor) -> Tensor:
    stream = small.open(source.shape[2], source.shape[2])
    with torch.inference_mode():
        result = stream.feed(source)
    assert result is not None
    return result
