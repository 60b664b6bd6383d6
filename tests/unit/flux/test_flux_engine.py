"""The engine from file to file, as the worker calls it."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
import safetensors.torch

from recording import RecordingContext
from upscaled_cli import exits
from upscaled_cli.models import main as models_command
from upscaled_models.catalog import Catalog
from upscaled_models.engine import Outcome, Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.flux import pipeline as upscaling
from upscaled_models.flux.embeddings import EmbeddingCache
from upscaled_models.flux.engine import FluxEngine
from upscaled_models.flux.files import find_files
from upscaled_models.flux.gguf_file import open_gguf
from upscaled_models.flux.libraries import CLIPTextModel, T5EncoderModel
from upscaled_models.flux.models import load_models
from upscaled_models.flux.text import Embeddings, tokenize
from upscaled_protocol.configs import EsrganConfig, FluxConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size


@pytest.fixture
def engine(copy: Path) -> Iterator[FluxEngine]:
    engine = FluxEngine(Settings(model_dir=copy, threads=1))
    engine.start()
    yield engine
    engine.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return write(tmp_path / "in.png", pixels(48, 40, 3))


def pixels(width: int, height: int, bands: int) -> np.ndarray:
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    planes = [127 + 100 * np.sin(x / (5 + band) + y / 7) for band in range(bands)]
    return np.stack(planes, 2).astype(np.uint8)


def write(path: Path, values: np.ndarray) -> Path:
    image = pyvips.Image.new_from_array(values)
    image.copy(interpretation="b-w" if values.shape[2] < 3 else "srgb").write_to_file(str(path))
    return path


def read(path: str | Path | None) -> np.ndarray:
    values: np.ndarray = np.asarray(pyvips.Image.new_from_file(str(path)))
    return values


def run(
    engine: FluxEngine, picture: Path, context: RecordingContext | None = None, **config: Any
) -> Outcome:
    given: dict[str, Any] = {"upscale_model": "compact-x4", "steps": 2, "tile_size": 128} | config
    given.setdefault("output_path", str(picture.with_name("out.png")))
    return engine.run(FluxConfig(image_path=str(picture), **given), context or RecordingContext())


def test_a_picture_is_upscaled_and_refined(engine: FluxEngine, picture: Path) -> None:
    context = RecordingContext()
    outcome = run(engine, picture, context)
    assert outcome.output_size == Size(width=192, height=160)
    assert outcome.scale_factor == 4
    assert outcome.model == "flux1-dev-Q8_0"
    assert outcome.warnings == context.warnings == []
    assert read(outcome.output_path).shape == (160, 192, 3)
    # Two bands of two tiles, each of two steps.
    assert (8, 8) in context.tiles
    assert context.percents[-1] == 100
    assert {"decode", "load", "inference", "encode"} <= set(context.phases)
    assert engine.models() == ["flux1-dev-Q8_0"]
    assert "flux1-dev-Q8_0" in engine.models_loaded()
    engine.trim()
    assert "flux1-dev-Q8_0" not in engine.models_loaded()


def test_the_files_are_found_under_the_names_of_comfyuis_users(
    engine: FluxEngine, picture: Path, copy: Path
) -> None:
    (copy / "vae" / "ae.sft").rename(copy / "vae" / "ae.safetensors")
    (copy / "unet").rename(copy / "diffusion_models")
    (copy / "clip").rename(copy / "text_encoders")
    assert engine.models() == ["flux1-dev-Q8_0"]
    assert engine.lacks() is None
    assert run(engine, picture, prompt="a cat").model == "flux1-dev-Q8_0"


def test_a_users_own_transformer_is_added_after_its_header_was_checked(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = next((copy / "unet").glob("*.gguf")).rename(tmp_path / "mine.gguf")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(own.read_bytes()[:-1])
    assert models_command(["add", str(cut), "--model-dir", str(copy)]) == exits.FAILED
    assert "cut.gguf is not usable: it is truncated" in capsys.readouterr().err
    assert models_command(["add", str(own), "--model-dir", str(copy)]) == exits.OK
    assert "upscaled upscale photo.jpg --method flux --model mine" in capsys.readouterr().out
    assert (copy / "unet" / "mine.gguf").read_bytes() == own.read_bytes()


def test_the_first_file_that_is_missing_is_named(engine: FluxEngine, copy: Path) -> None:
    (copy / "clip" / "clip_l.tokenizer.json").unlink()  # only a prompt needs it
    assert engine.lacks() is None
    (copy / "clip" / "clip_l.safetensors").unlink()
    assert "needs clip/clip_l.safetensors, which is not installed" in str(engine.lacks())
    next((copy / "unet").glob("*.gguf")).unlink()
    assert "needs unet/flux1-dev-Q8_0.gguf" in str(engine.lacks())


def test_a_seed_gives_the_same_bits_again(engine: FluxEngine, picture: Path) -> None:
    first, again, other = (
        read(run(engine, picture, denoise=0.9, seed=seed).output_path) for seed in (3, 3, 4)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_prompt_and_guidance_count(engine: FluxEngine, picture: Path) -> None:
    results = [
        read(run(engine, picture, denoise=1.0, **config).output_path)
        for config in ({}, {"prompt": "a cat"}, {"guidance": 60.0})
    ]
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_without_denoise_the_first_stage_is_the_result(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    first_stage = EsrganEngine(Settings(model_dir=copy, threads=1))
    first_stage.start()
    expected = first_stage.run(
        EsrganConfig(image_path=str(picture), output_path=str(picture.with_name("first.png"))),
        RecordingContext(),
    )
    context = RecordingContext()
    outcome = run(engine, picture, context, denoise=0.0)
    assert np.array_equal(read(outcome.output_path), read(expected.output_path))
    assert context.percents[-1] > 0
    assert "flux1-dev-Q8_0" not in engine.models_loaded()


@pytest.mark.parametrize("denoise", [0.0, 0.9])
def test_the_first_stage_may_be_the_model_that_suits_the_picture(
    engine: FluxEngine, picture: Path, denoise: float
) -> None:
    outcome = run(engine, picture, upscale_model="auto", denoise=denoise)
    assert outcome.model == "flux1-dev-Q8_0"
    assert str(outcome.model_reason).startswith("the first stage is compact-x4")


def test_alpha_is_the_first_stages(engine: FluxEngine, tmp_path: Path) -> None:
    values = pixels(48, 40, 4)
    picture = write(tmp_path / "in.png", values)
    kept = read(run(engine, picture, denoise=0.0).output_path)
    refined = read(run(engine, picture, denoise=0.9).output_path)
    assert np.array_equal(refined[:, :, 3], kept[:, :, 3])
    assert not np.array_equal(refined[:, :, :3], kept[:, :, :3])


def test_gray_stays_gray(engine: FluxEngine, tmp_path: Path) -> None:
    picture = write(tmp_path / "in.png", pixels(40, 32, 1))
    assert read(run(engine, picture).output_path).shape[2:] in {(), (1,)}


def test_a_print_size_is_refined_at_that_size_and_cropped(
    engine: FluxEngine, picture: Path
) -> None:
    outcome = run(
        engine,
        picture,
        target_dpi=50,
        target_width_inches=2.0,
        target_height_inches=3.0,
        crop="center",
        output_format="tiff",
        output_path=str(picture.with_name("out.tif")),
    )
    assert outcome.output_size == Size(width=100, height=150)
    assert outcome.crop_info is not None
    assert outcome.crop_info.direction == "horizontal"
    image = pyvips.Image.new_from_file(outcome.output_path)
    assert (image.width, image.height) == (100, 150)
    assert image.xres == pytest.approx(50 / 25.4, rel=1e-3)


def test_embeddings_are_kept_and_the_encoders_are_not(
    engine: FluxEngine, copy: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = load_models
    alive: list[int] = []

    def encoders() -> int:
        gc.collect()
        return sum(type(one) in {CLIPTextModel, T5EncoderModel} for one in gc.get_objects())

    def watched(*given: Any, **named: Any) -> Any:
        alive.append(encoders())
        return load(*given, **named)

    monkeypatch.setattr(upscaling, "load_models", watched)
    before = encoders()  # the replica's own
    first = read(run(engine, picture, prompt="a cat").output_path)
    assert alive == [before]
    assert len(list((copy / "flux_embeddings").iterdir())) == 1

    def never(*_: Any) -> Any:
        raise AssertionError("the embeddings were there")

    monkeypatch.setattr(upscaling, "encode", never)
    again = read(run(engine, picture, prompt="a cat").output_path)
    assert np.array_equal(first, again)
    with pytest.raises(AssertionError):
        run(engine, picture, prompt="a w5")
    # Another encoder's file is another key.
    t5 = copy / "clip" / "t5xxl_fp8_e4m3fn.safetensors"
    data = bytearray(t5.read_bytes())
    data[-1] ^= 1
    t5.write_bytes(data)
    with pytest.raises(AssertionError):
        run(engine, picture, prompt="a cat")


def test_a_damaged_embedding_file_is_replaced(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    first = read(run(engine, picture).output_path)
    (kept,) = (copy / "flux_embeddings").iterdir()
    kept.write_bytes(b"nonsense")
    assert np.array_equal(read(run(engine, picture).output_path), first)
    assert kept.stat().st_size > 1000


def test_a_model_folder_that_cannot_be_written_causes_a_warning(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    (copy / "flux_embeddings").write_text("in the way")
    context = RecordingContext()
    run(engine, picture, context)
    assert context.warnings == [
        "the model folder is not writable: the prompt's embeddings are not kept"
    ]


def test_a_cancelled_job_leaves_no_file_and_the_next_is_unaffected(
    engine: FluxEngine, picture: Path
) -> None:
    expected = read(run(engine, picture).output_path)
    output = picture.with_name("cancelled.png")
    engine.trim()
    for percent in (0, 20, 99):  # while it loads, and at two steps
        with pytest.raises(JobError, match="cancelled"):
            run(engine, picture, RecordingContext(cancel_at=percent), output_path=str(output))
        assert not output.exists()
    assert np.array_equal(read(run(engine, picture).output_path), expected)


def test_another_quantisation_in_the_folder_is_a_model_by_its_stem(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    (copy / "unet" / "flux1-dev-Q8_0.gguf").rename(copy / "unet" / "my-flux.gguf")
    assert engine.models() == ["my-flux"]
    assert run(engine, picture, model="my-flux").model == "my-flux"


def test_a_missing_or_broken_file_has_its_error_code(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    def code(**config: Any) -> ErrorCode:
        with pytest.raises(JobError) as failed:
            run(engine, picture, **config)
        return failed.value.code

    assert code(model="flux1-schnell") == ErrorCode.MODEL_NOT_FOUND
    assert code(upscale_model="4x-UltraSharp") == ErrorCode.MODEL_NOT_FOUND
    assert code(pre_model="1x-denoise") == ErrorCode.MODEL_NOT_FOUND
    # It enlarges; it is loaded with the first stage.
    assert code(pre_model="compact-x4", denoise=0.0) == ErrorCode.INVALID_JOB
    assert code(model=str(copy / "vae" / "ae.sft")) == ErrorCode.INVALID_JOB
    path = copy / "unet" / "flux1-dev-Q8_0.gguf"
    path.write_bytes(path.read_bytes()[:-1000])
    assert code() == ErrorCode.MODEL_CORRUPT
    path.unlink()
    assert code() == ErrorCode.MODEL_NOT_FOUND


def test_weights_that_are_not_numbers_make_no_picture(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    path = copy / "unet" / "flux1-dev-Q8_0.gguf"
    data = bytearray(path.read_bytes())
    with open_gguf(path, "flux") as file:
        weight = file.entries["double_blocks.0.img_attn.qkv.weight"]
    data[weight.offset : weight.offset + 2] = b"\xff\xff"  # a block's scale: not a number
    path.write_bytes(data)
    with pytest.raises(JobError, match="no picture: its weights are damaged") as failed:
        run(engine, picture)
    assert failed.value.code == ErrorCode.MODEL_CORRUPT
    assert not picture.with_name("out.png").exists()


def test_only_one_job_has_the_device(engine: FluxEngine, picture: Path) -> None:
    turn = threading.Lock()
    with turn:
        context = RecordingContext(turn=turn)
        job = threading.Thread(target=run, args=(engine, picture, context), daemon=True)
        job.start()
        job.join(1)
        assert job.is_alive()
        assert "inference" not in context.phases
    job.join(60)
    assert "inference" in context.phases


def test_a_model_can_be_loaded_before_the_first_job(copy: Path) -> None:
    engine = FluxEngine(Settings(model_dir=copy, threads=1, preload=("flux", "compact-x4")))
    engine.start()
    assert "flux1-dev-Q8_0" in engine.models_loaded()
    engine.close()


def test_the_error_of_a_missing_extra_says_what_to_install(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled_models.flux.engine.is_installed", lambda method: False)
    with pytest.raises(JobError, match=r"pip install 'upscaled\[flux\]'"):
        FluxEngine(Settings(model_dir=copy, threads=1)).start()


def test_a_block_cache_of_an_older_host_is_ignored_with_a_warning(
    engine: FluxEngine, picture: Path
) -> None:
    context = RecordingContext()
    config = FluxConfig(image_path=str(picture), upscale_model="compact-x4", block_cache=0.3)
    engine.prepare(config, context)
    assert context.warnings == ["block_cache was ignored: this version computes every call in full"]


def test_memory_that_runs_out_while_models_load_has_its_own_error_code(
    engine: FluxEngine, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    for part in ("encode", "load_models"):
        with monkeypatch.context() as patched:
            patched.setattr(upscaling, part, too_large)
            with pytest.raises(JobError, match="memory ran out") as failed:
                run(engine, picture, prompt="a cat")
        assert failed.value.code == ErrorCode.OUT_OF_MEMORY
        run(engine, picture)
        engine.trim()


@pytest.mark.parametrize("denoise", [1e-6, 1e-310, 5e-324])
def test_the_smallest_denoise_gives_a_picture(
    engine: FluxEngine, picture: Path, denoise: float
) -> None:
    assert run(engine, picture, denoise=denoise).output_size == Size(width=192, height=160)


@pytest.mark.parametrize("name", ["clip_l", "t5xxl_fp8_e4m3fn"])
def test_text_encoders_with_damaged_weights_are_named_and_their_embeddings_are_not_kept(
    engine: FluxEngine, copy: Path, picture: Path, name: str
) -> None:
    path = copy / "clip" / f"{name}.safetensors"
    whole = path.read_bytes()
    tensors = safetensors.torch.load_file(path)
    damaged = next(key for key in tensors if key.endswith(("q.weight", "q_proj.weight")))
    shape, dtype = tensors[damaged].shape, tensors[damaged].dtype
    tensors[damaged] = torch.full(shape, float("nan")).to(dtype)
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(JobError, match=f"^{name}.safetensors is not usable") as failed:
        run(engine, picture)
    assert failed.value.code == ErrorCode.MODEL_CORRUPT
    assert not list(copy.glob("flux_embeddings/*"))
    path.write_bytes(whole)
    run(engine, picture)


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensor: tensor[:, :7].contiguous(),
        lambda tensor: tensor * float("nan"),
    ],
    ids=["shape", "nan"],
)
def test_kept_embeddings_that_cannot_be_used_are_replaced(
    engine: FluxEngine, copy: Path, picture: Path, damage: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    expected = read(run(engine, picture).output_path)
    (kept,) = (copy / "flux_embeddings").iterdir()
    whole = kept.read_bytes()
    tensors = safetensors.torch.load_file(kept)
    tensors["sequence"] = damage(tensors["sequence"])
    safetensors.torch.save_file(tensors, kept)
    assert np.array_equal(read(run(engine, picture).output_path), expected)
    assert kept.read_bytes() == whole


def test_an_encoder_file_that_was_replaced_encodes_again(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    # What was wrong with it may lie between the samples that its key is made of.
    run(engine, picture)
    path = copy / "clip" / "t5xxl_fp8_e4m3fn.safetensors"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    run(engine, picture)
    assert len(list((copy / "flux_embeddings").iterdir())) == 2


def test_kept_embeddings_that_cannot_be_removed_do_not_disturb_a_job(
    engine: FluxEngine, copy: Path, picture: Path
) -> None:
    for number in range(257):
        (copy / "flux_embeddings" / f"{number:064x}.safetensors").mkdir(parents=True)
    assert run(engine, picture).warnings == []


def test_files_in_comfyuis_folder_of_embeddings_are_left_alone(copy: Path) -> None:
    own = copy / "embeddings"
    own.mkdir()
    for number in range(257):  # more than are kept of ours
        (own / f"style{number}.safetensors").touch()
    files = find_files(Catalog.load(), "flux", copy)
    embeddings = Embeddings(torch.zeros(1, 1, 1), torch.zeros(1, 1))
    assert EmbeddingCache(files).keep(tokenize("", files), embeddings)
    assert len(list(own.iterdir())) == 257
