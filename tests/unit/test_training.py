"""The recipe of the bundled models: its pictures, its reductions and its command."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("PIL", reason="the training recipe draws with Pillow")

from training import curves, damage, photographs, train, validation
from training.bank import MIXTURES, Bank, Source, photograph_file
from training.crops import Crops
from training.damage import damage_pictures
from training.degrade import GRAPHIC_SHARES, KERNELS, reduce_pictures
from training.graphics import GRAPHICS_RECIPE, make_field, make_graphic
from training.jpeg import SUBSAMPLING, compress
from training.loss import SLACK, picture_loss
from training.network import Compact, load_network, quick_prelu, save_network
from training.photographs import cut_squares, fetch_photographs
from training.pictures import RECIPE, make_picture
from training.run import Recipe, Run
from training.train import main
from upscaled_imaging.luma import LUMA
from upscaled_models.esrgan.colour import SMOOTH_FOLLOWS_LUMA

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "weights"
LIMIT_BYTES = 3_000_000


def test_the_same_seed_gives_the_same_picture_and_another_index_another() -> None:
    first = make_picture(7, 0, 96)
    assert first.shape == (96, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, make_picture(7, 0, 96))
    assert not np.array_equal(first, make_picture(7, 1, 96))
    assert not np.array_equal(first, make_picture(8, 0, 96))


def test_pictures_are_neither_flat_nor_black_nor_white() -> None:
    for index in range(6):
        picture = make_picture(3, index, 96)
        assert picture.std() > 2.0
        assert 5.0 < picture.mean() < 250.0


def test_graphics_have_flat_saturated_fields_black_and_white_and_repeat() -> None:
    pictures = np.stack([make_graphic(1, index, 96) for index in range(12)])
    np.testing.assert_array_equal(pictures[3], make_graphic(1, 3, 96))
    assert not np.array_equal(pictures[3], make_graphic(2, 3, 96))
    colours = pictures.reshape(-1, 3)
    assert (colours == 0).all(axis=1).any()
    assert (colours == 255).all(axis=1).any()
    assert (np.ptp(colours, axis=1) == 255).any()
    flat = (pictures[:, 1:] == pictures[:, :-1]).all(axis=-1).mean()
    assert flat > 0.5


def test_a_field_has_one_colour_and_the_next_one_another() -> None:
    fields = [make_field(1, index, 8) for index in range(4)]
    assert all((field == field[0, 0]).all() for field in fields)
    assert len({tuple(field[0, 0]) for field in fields}) > 1
    np.testing.assert_array_equal(fields[2], make_field(1, 2, 8))


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_reduction_keeps_a_flat_picture_flat_and_8_bit(kernel: str) -> None:
    flat = torch.full((1, 3, 24, 36), 100 / 255)
    which = torch.tensor([KERNELS.index(kernel)])
    small = reduce_pictures(flat, 4, which)
    assert small.shape == (1, 3, 6, 9)
    torch.testing.assert_close(small, torch.full_like(small, 100 / 255))
    noisy = reduce_pictures(torch.rand(1, 3, 24, 36), 4, which) * 255
    torch.testing.assert_close(noisy, noisy.round())


def test_the_bicubic_reduction_is_pillows() -> None:
    from PIL import Image

    picture = make_picture(5, 0, 96)
    expected = np.array(Image.fromarray(picture).resize((24, 24), Image.Resampling.BICUBIC))
    tensor = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
    bicubic = torch.tensor([KERNELS.index("bicubic")])
    small = (reduce_pictures(tensor, 4, bicubic)[0] * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(small - expected).max() <= 1.0


def _crops(*sources: Source, batch: int, crop: int) -> Crops:
    cpu = torch.device("cpu")
    bank = Bank(sources)
    return Crops(bank, scale=2, batch=batch, crop=crop, seed=0, damaged=False, device=cpu)


def test_a_pair_is_a_picture_and_its_reduction_and_its_step_decides_it() -> None:
    pictures = np.stack([make_picture(1, index, 64) for index in range(2)])
    source = Source(
        pictures, 1.0, MIXTURES[4].kernels, candidates=2, swaps_colours=True, softened=0.5
    )
    crops = _crops(source, batch=3, crop=16)
    small, truth = crops.pairs(17)
    assert small.shape == (3, 3, 16, 16)
    assert truth.shape == (3, 3, 32, 32)
    means = torch.nn.functional.avg_pool2d(truth, 2)
    assert (small - means).abs().mean() < 0.05
    other, _ = crops.pairs(40)
    assert not torch.equal(small, other)
    again, _ = _crops(source, batch=3, crop=16).pairs(17)
    torch.testing.assert_close(small, again, rtol=0, atol=0)


def test_crops_are_turned_and_mirrored_in_all_eight_ways() -> None:
    picture = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    _, truth = _crops(Source(picture, 1.0, MIXTURES[4].kernels), batch=16, crop=4).pairs(0)
    ways = [np.rot90(picture[0], turns) for turns in range(4)]
    ways += [way[:, ::-1] for way in ways]
    found = {
        index
        for crop in (truth * 255).round().permute(0, 2, 3, 1).numpy()
        for index, way in enumerate(ways)
        if np.array_equal(crop, way)
    }
    assert len(truth) == 16
    assert len(found) > 4


def test_soft_colours_keep_the_brightness() -> None:
    picture = make_graphic(1, 0, 64)[None]
    plain = Source(picture, 1.0, MIXTURES[4].kernels)
    _, sharp = _crops(plain, batch=16, crop=16).pairs(0)
    _, soft = _crops(replace(plain, softened=1.0), batch=16, crop=16).pairs(0)
    luma = torch.tensor(LUMA).view(1, 3, 1, 1)
    assert float((sharp - soft).abs().max()) > 0.1
    # Where nothing was clipped.
    kept = ((soft > 0) & (soft < 1)).all(dim=1)
    lost = ((sharp - soft) * luma).sum(dim=1).abs()[kept]
    assert float(lost.max()) < 0.005


def test_sources_are_used_in_their_shares() -> None:
    black, white = np.zeros((1, 32, 32, 3), np.uint8), np.full((1, 32, 32, 3), 255, np.uint8)
    crops = _crops(
        Source(black, 1.0, GRAPHIC_SHARES), Source(white, 3.0, GRAPHIC_SHARES), batch=400, crop=4
    )
    _, truth = crops.pairs(0)
    assert 0.7 < float(truth.mean()) < 0.8


def test_damage_leaves_8_bits_and_some_pictures_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    small = torch.from_numpy(make_picture(1, 0, 48)).permute(2, 0, 1)[None] / 255
    small = small.repeat(5, 1, 1, 1)
    rng = np.random.default_rng(0)
    monkeypatch.setattr(damage, "UNDAMAGED", 1.0)
    assert torch.equal(damage_pictures(rng, small), small)
    monkeypatch.setattr(damage, "UNDAMAGED", 0.0)
    shares = ("BLURRED", "NOISY", "COMPRESSED")
    for only in shares:
        for share in shares:
            monkeypatch.setattr(damage, share, float(share == only))
        damaged = damage_pictures(rng, small)
        torch.testing.assert_close(damaged * 255, (damaged * 255).round())
        assert 0.0 < float((damaged - small).abs().mean()) < 0.1


@pytest.mark.parametrize("subsampling", SUBSAMPLING)
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_the_jpeg_of_the_recipe_is_pillows(subsampling: str, quality: int) -> None:
    from PIL import Image

    picture = make_picture(5, 0, 96)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    expected = np.asarray(Image.open(buffer)).astype(int)
    levels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()
    which = torch.tensor([SUBSAMPLING.index(subsampling)])
    ours = compress(levels, torch.tensor([quality]), which)[0].permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - expected).mean() < 0.75  # levels


def test_beyond_the_range_is_right_only_at_that_end_of_it() -> None:
    truth = torch.tensor([0.0, 1.0, 0.5, 0.0, 1.0]).reshape(1, 1, 1, 1, 5).expand(1, 3, 1, 1, 5)
    clipped = (
        torch.tensor([-SLACK, 1.0 + SLACK / 2, 0.5, 0.0, 1.0])
        .reshape(1, 1, 1, 1, 5)
        .expand_as(truth)
    )
    assert float(picture_loss(clipped, truth)) == 0.0
    for place, value in ((0, 0.1), (0, -0.3), (1, 0.9), (1, 1.2), (2, -0.3), (2, 1.2)):
        wrong = clipped.clone()
        wrong[..., place] = value
        assert float(picture_loss(wrong, truth)) > 0.0


def test_a_value_beyond_all_that_is_near_counts_more() -> None:
    truth = torch.full((1, 3, 4, 6, 6), 0.25)
    truth[..., 3:] = 0.75
    beyond, between = truth.clone(), truth.clone()
    beyond[..., 2] -= 0.1  # a dark line beside the edge
    between[..., 2] += 0.1  # a softer edge
    assert float(picture_loss(beyond, truth)) > 3 * float(picture_loss(between, truth))


def test_photographs_are_cut_into_squares_that_cover_them(tmp_path: Path) -> None:
    from PIL import Image

    pixels = np.zeros((1600, 2000, 3), np.uint8)
    pixels[-1, -1] = 255
    Image.fromarray(pixels).save(tmp_path / "photograph.png")
    squares = list(cut_squares(tmp_path / "photograph.png", 768))
    assert {square.shape for square in squares} == {(768, 768, 3)}
    assert len(squares) == 2 * 3 + 2 * 2 + 1 * 2
    assert squares[5][-1, -1].min() > 200


def test_a_photograph_under_another_licence_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked = tmp_path / photographs.PACKAGE
    notice = unpacked / "usr/share/doc" / photographs.PACKAGE / "copyright"
    notice.parent.mkdir(parents=True)
    (unpacked / "usr/share/backgrounds").mkdir(parents=True)
    photograph = photographs.Photograph("a.jpg", "An Author", "CC-BY-4.0", "0" * 64)
    (unpacked / "usr/share/backgrounds/a.jpg").write_bytes(b"not that picture")
    monkeypatch.setattr(photographs, "PHOTOGRAPHS", (photograph,))
    stanza = "Format: 1.0\n\nFiles: 16.04/a.jpg\nCopyright: An Author, 2018\nLicense: {}\n"
    notice.write_text(stanza.format("CC-BY-SA-4.0"))
    with pytest.raises(ValueError, match=r"under CC-BY-SA-4\.0, not CC-BY-4\.0"):
        fetch_photographs(tmp_path)
    notice.write_text(stanza.format("CC-BY-4.0"))
    with pytest.raises(ValueError, match="another picture"):
        fetch_photographs(tmp_path)


def test_a_network_survives_its_file(tmp_path: Path) -> None:
    network = Compact(3, 4, 2, SMOOTH_FOLLOWS_LUMA)
    save_network(network, tmp_path / "tiny.safetensors")
    loaded = load_network(tmp_path / "tiny.safetensors")
    assert (loaded.scale, loaded.colour) == (3, SMOOTH_FOLLOWS_LUMA)
    pixels = torch.rand(1, 3, 5, 7)
    torch.testing.assert_close(loaded(pixels), network(pixels), rtol=0, atol=0)
    assert loaded(pixels).shape == (1, 3, 15, 21)


def test_the_quick_activation_is_prelu_and_so_is_its_gradient() -> None:
    pixels = torch.linspace(-1.0, 1.0, 120, dtype=torch.float64).reshape(2, 3, 4, 5)
    slope = torch.tensor([0.1, 0.25, -0.3], dtype=torch.float64)
    expected = torch.prelu(pixels, slope)
    torch.testing.assert_close(quick_prelu(pixels, slope), expected, rtol=0, atol=0)
    assert torch.autograd.gradcheck(quick_prelu, (pixels.requires_grad_(), slope.requires_grad_()))


def _command(folder: Path, out: str, steps: int, *more: str) -> list[str]:
    words = f"--scale 2 --steps {steps} --features 4 --depth 1 --batch 2 --crop 8 --pictures 1"
    words += " --side 64 --threads 1 --validate-steps 0"
    return [*words.split(), "--cache", str(folder), "--out", str(folder / "out" / out), *more]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A cache folder whose bank is there already: making one starts processes, which is slow."""
    scene, graphic = make_picture(1, 0, 64)[None], make_graphic(1, 0, 64)[None]
    np.save(tmp_path / f"pictures-{RECIPE}-1-1x64.npy", scene)
    np.save(tmp_path / f"graphics-{GRAPHICS_RECIPE}-1-1x64.npy", graphic)
    np.save(tmp_path / photograph_file(64), scene)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)  # the command sets them for its whole process


def test_the_command_writes_weights_that_the_worker_can_name(folder: Path) -> None:
    main(_command(folder, "tiny.safetensors", 3))
    weights = load_file(folder / "out" / "tiny.safetensors")
    assert set(weights) == {
        "body.0.weight",
        "body.0.bias",
        "body.1.weight",
        "body.2.weight",
        "body.2.bias",
        "body.3.weight",
        "body.4.weight",
        "body.4.bias",
    }
    assert weights["body.0.weight"].shape == (4, 3, 3, 3)
    assert weights["body.4.bias"].shape == (12,)
    assert all(value.dtype == torch.float32 for value in weights.values())


def test_weights_on_the_way_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "KEPT_STEPS", 2)
    main(_command(folder, "tiny.safetensors", 5))
    kept = sorted(path.name for path in folder.glob("tiny-*.safetensors"))
    assert kept == ["tiny-2.safetensors", "tiny-4.safetensors"]
    first, second = (load_network(folder / name).state_dict() for name in kept)
    assert any(not torch.equal(value, second[name]) for name, value in first.items())


def test_an_interrupted_run_resumes_and_ends_with_the_same_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(_command(folder, "whole.safetensors", 6))

    advance, calls = Run.advance, 0

    def interrupted(run: Run, crops: Crops) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return advance(run, crops)

    monkeypatch.setattr(Run, "advance", interrupted)
    every_step = ("--checkpoint-s", "0")
    with pytest.raises(KeyboardInterrupt):
        main(_command(folder, "halved.safetensors", 6, *every_step))
    assert not (folder / "out" / "halved.safetensors").exists()
    main(_command(folder, "halved.safetensors", 6, "--resume", *every_step))
    assert calls == 4 + 3

    whole = load_file(folder / "out" / "whole.safetensors")
    halved = load_file(folder / "out" / "halved.safetensors")
    for name, value in whole.items():
        torch.testing.assert_close(halved[name], value, rtol=0, atol=0)


def test_a_checkpoint_of_other_settings_is_refused(folder: Path) -> None:
    main(_command(folder, "tiny.safetensors", 2))
    with pytest.raises(ValueError, match="other settings"):
        main(_command(folder, "tiny.safetensors", 2, "--resume", "--damaged"))
    with pytest.raises(ValueError, match="--steps 2"):
        main(_command(folder, "tiny.safetensors", 3, "--resume"))


def test_a_run_may_be_given_more_steps_before_its_rate_falls(tmp_path: Path) -> None:
    few = Recipe(2, 1, 4, 1, 100, 2, 8, 1e-3, 1, 64, damaged=False, start=None)
    more = replace(few, steps=1000)
    assert [few.rate(49), few.rate(100)] == [1e-3, 0.0]
    assert more.rate(100) == 1e-3
    cpu = torch.device("cpu")
    run = Run(few, cpu)
    for step, resumes in ((50, True), (51, False)):
        run.step = step
        run.save(tmp_path / "checkpoint")
        if resumes:
            Run(more, cpu).restore(tmp_path / "checkpoint")
        else:
            with pytest.raises(ValueError, match="--steps 100"):
                Run(more, cpu).restore(tmp_path / "checkpoint")


def test_a_further_stage_begins_with_the_weights_of_the_last(folder: Path) -> None:
    main(_command(folder, "first.safetensors", 3))
    first = folder / "out" / "first.safetensors"
    main(_command(folder, "second.safetensors", 1, "--start", str(first), "--peak-rate", "1e-9"))
    second = load_file(folder / "out" / "second.safetensors")
    for name, value in load_file(first).items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=1e-6)


def test_sigterm_saves_a_checkpoint_and_the_log_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance = Run.advance

    def terminated(run: Run, crops: Crops) -> torch.Tensor:
        loss = advance(run, crops)
        if run.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return loss

    monkeypatch.setattr(train, "LOG_STEPS", 1)
    monkeypatch.setattr(Run, "advance", terminated)
    handler = signal.getsignal(signal.SIGTERM)
    main(_command(folder, "tiny.safetensors", 5))
    assert "stopped at step 3 of 5" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not (folder / "out" / "tiny.safetensors").exists()
    load_network(folder / "tiny.safetensors")
    with (folder / "tiny.jsonl").open("a") as log:
        log.write('{"step": 4, "loss": 9}\n{"st')  # as a killed process leaves it
    main(_command(folder, "tiny.safetensors", 5, "--resume"))
    lines = [json.loads(line) for line in (folder / "tiny.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == [1, 2, 3, 4, 5]
    assert all(line["loss"] < 1 for line in lines if "loss" in line)
    assert [line["recipe"]["seed"] for line in lines if "recipe" in line] == [1, 1]
    assert (folder / "out" / "tiny.safetensors").exists()


def test_a_log_is_drawn_from_its_highest_to_its_lowest_value(tmp_path: Path) -> None:
    log, out = tmp_path / "tiny.jsonl", tmp_path / "curves.svg"
    log.write_text('{"step": 0, "recipe": {}}\n')
    with pytest.raises(ValueError, match="holds no step yet"):
        curves.main([str(log), "--out", str(out)])
    lines = ({"step": 100, "loss": 0.5}, {"step": 200, "loss": 0.1, "gain_rgb": 0.25})
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    curves.main([str(log), "--out", str(out)])
    drawn = out.read_text()
    ElementTree.fromstring(drawn)
    assert 'points="390.0,24.0 710.0,154.0"' in drawn
    assert "loss; now 0.1" in drawn
    assert "gain over Lanczos in RGB, dB; now 0.25" in drawn
    assert "luma" not in drawn


def test_the_stages_of_a_model_are_drawn_one_after_the_other(tmp_path: Path) -> None:
    logs, out = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"], tmp_path / "curves.svg"
    logs[0].write_text('{"step": 100, "loss": 0.5}\n{"step": 300, "loss": 0.4}\n')
    logs[1].write_text('{"step": 0, "recipe": {}}\n{"step": 100, "loss": 0.1}\n')
    curves.main([*map(str, logs), "--out", str(out)])
    drawn = out.read_text()
    assert 'points="230.0,24.0 550.0,56.5 710.0,154.0"' in drawn
    assert all(step in drawn for step in (">step 300<", ">step 400<"))


def test_of_a_long_log_means_are_drawn(tmp_path: Path) -> None:
    log, out = tmp_path / "long.jsonl", tmp_path / "curves.svg"
    lines = [{"step": step, "loss": step % 2} for step in range(1, 1001)]
    log.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    curves.main([str(log), "--out", str(out)])
    (points,) = re.findall('points="([^"]*)"', out.read_text())
    assert len(points.split()) == 200
    assert ">0.6<" in out.read_text()  # of five lines, two or three are 1


def test_validation_has_lanczos_to_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "PHOTOGRAPHS", {"drawn": lambda: make_picture(1, 0, 64)})
    figures = validation.Validation(2).score(Compact(2, 4, 1))
    assert figures.psnr_rgb > 15.0
    assert figures.gain_rgb < 0.0
    assert figures.gain_luma < 0.0
    assert figures.gain_rgb > -25.0
    assert figures.gain_rgb_jpeg != figures.gain_rgb
    assert figures.outermost >= 0


@pytest.mark.parametrize(
    ("name", "scale"), [("compact-x4", 4), ("compact-x4-clean", 4), ("compact-x2", 2)]
)
def test_the_bundled_weights_are_small_and_of_their_scale(name: str, scale: int) -> None:
    path = WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size < LIMIT_BYTES
    network = load_network(path)
    assert network.scale == scale
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
