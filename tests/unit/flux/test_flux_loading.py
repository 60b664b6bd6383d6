"""Files to modules: what is loaded is what the libraries' own classes hold, or is refused."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
import gguf
import safetensors.torch
from gguf import GGMLQuantizationType as Quantisation

from upscaled_bench.flux_replicas import (
    Replica,
    job_files,
    write_replica,
    write_text_encoders,
)
from upscaled_models.catalog import Catalog
from upscaled_models.flux import formats
from upscaled_models.flux.autoencoder import load_autoencoder
from upscaled_models.flux.files import Files
from upscaled_models.flux.formats import FORMATS, expand
from upscaled_models.flux.gguf_file import open_gguf
from upscaled_models.flux.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    FluxTransformer2DModel,
    T5Config,
    T5EncoderModel,
)
from upscaled_models.flux.names import transformer_origin
from upscaled_models.flux.text import Embeddings, encode, tokenize
from upscaled_models.flux.transformer import (
    Placement,
    check_transformer,
    choose_placement,
    load_transformer,
)
from upscaled_models.flux.weights import StoredLinear
from upscaled_protocol.errors import ErrorCode, JobError

CPU = torch.device("cpu")


def silent(done: int, total: int) -> None: ...


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LATENTS = random(2, 16, 8, 8, seed=1)
EMBEDDINGS = Embeddings(random(1, 24, 32, seed=2), random(1, 32, seed=3))


def stock_prediction(module: Any, latents: torch.Tensor, sigma: float) -> torch.Tensor:
    """What diffusers' FLUX pipelines do for one step."""
    from diffusers import FluxPipeline

    batch, channels, height, width = latents.shape
    tokens = FluxPipeline._pack_latents(latents, batch, channels, height, width)
    ids = FluxPipeline._prepare_latent_image_ids(batch, height // 2, width // 2, CPU, torch.float32)
    with torch.inference_mode():
        velocity = module(
            hidden_states=tokens,
            encoder_hidden_states=EMBEDDINGS.sequence.expand(batch, -1, -1),
            pooled_projections=EMBEDDINGS.pooled.expand(batch, -1),
            timestep=torch.full((batch,), sigma),
            guidance=torch.full((batch,), 3.5),
            img_ids=ids,
            txt_ids=torch.zeros(EMBEDDINGS.sequence.shape[1], 3),
            return_dict=False,
        )[0]
    unpacked: torch.Tensor = FluxPipeline._unpack_latents(velocity, height * 8, width * 8, 8)
    return unpacked


# --- names and sizes of the published files --------------------------------------------------


def test_names_are_those_that_diffusers_converts_the_published_file_from() -> None:
    from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers

    width = 3072  # the one that its converter knows
    with torch.device("meta"):
        module = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    sizes: dict[str, dict[int, int]] = {}
    for parameter, value in module.named_parameters():
        origin = transformer_origin(parameter)
        sizes.setdefault(origin.name, {})[origin.part] = value.shape[0]
    # Each row of each tensor has a value of its own; columns do not matter.
    checkpoint, first, firsts = {}, 0, {}
    for name, parts in sizes.items():
        count = sum(parts.values())
        checkpoint[name] = torch.arange(first, first + count, dtype=torch.float64).view(-1, 1)
        firsts[name] = first
        first += count
    converted = convert_flux_transformer_checkpoint_to_diffusers(dict(checkpoint))
    assert set(converted) == {parameter for parameter, _ in module.named_parameters()}
    for parameter, value in converted.items():
        name, part, swapped = transformer_origin(parameter)
        start = firsts[name] + sum(sizes[name][earlier] for earlier in range(part))
        expected = torch.arange(start, start + sizes[name][part], dtype=torch.float64)
        if swapped:
            expected = expected.roll(width)
        assert torch.equal(value.flatten(), expected), parameter


def test_the_shipped_configs_are_those_of_the_published_files(tmp_path: Path) -> None:
    files = Files(tmp_path, *[tmp_path] * 6)
    catalog = Catalog.load()
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**files.config("transformer"))
        autoencoder = AutoencoderKL(**files.config("vae"))
        clip = CLIPTextModel(CLIPTextConfig(**files.config("text_encoder")))
        t5 = T5EncoderModel(T5Config(**files.config("text_encoder_2")))
    names = {transformer_origin(parameter).name for parameter, _ in transformer.named_parameters()}
    assert len(names) == 780

    def numbers(module: Any) -> int:
        return sum(value.numel() for value in module.parameters())

    embedding = t5.shared.weight.numel()  # which the published files hold twice
    for entry, bytes_ in (
        ("flux-ae", 4 * numbers(autoencoder)),
        ("clip_l", 2 * numbers(clip)),
        ("t5xxl_fp8_e4m3fn", numbers(t5) + embedding),
        ("t5xxl_fp16", 2 * (numbers(t5) + embedding)),
    ):
        model = catalog.find(entry)
        assert model is not None
        assert model.size_bytes is not None
        assert 0 < model.size_bytes - bytes_ < 40_000, entry  # the header
    # What is large and in a block is quantised; the rest has 16 bits, or 32 beside K-quants.
    matrices = sum(
        value.numel()
        for name, value in transformer.named_parameters()
        if "transformer_blocks" in name and value.ndim == 2
    )
    rest = numbers(transformer) - matrices
    for entry, kind, slack in (
        ("flux", "Q8_0", 60_000),
        ("flux1-dev-Q4_0", "Q4_0", 60_000),
        ("flux1-dev-Q6_K", "Q6_K", 2 * rest),
        ("flux1-dev-Q5_K_S", "Q5_K", 2 * rest),
        ("flux1-dev-Q4_K_S", "Q4_K", 2 * rest),
    ):
        model = catalog.find(entry)
        assert model is not None
        assert model.size_bytes is not None
        blocks = matrices // FORMATS[kind].block_values * FORMATS[kind].block_bytes
        assert 0 < model.size_bytes - blocks - 2 * rest < slack, entry
        assert not model.commercial_use
        assert model.requires == catalog.find("flux").requires  # type: ignore[union-attr]


# --- what is loaded is what the files hold ---------------------------------------------------


@pytest.mark.parametrize("placement", ["expanded", "stored", "offloaded"])
def test_the_transformer_equals_diffusers_on_dequantised_weights(
    replica: Replica, files: Files, placement: Placement
) -> None:
    transformer = load_transformer(files, CPU, torch.float32, placement, silent)
    result = transformer.predict(LATENTS, 0.3, 3.5, EMBEDDINGS)
    assert torch.equal(result, stock_prediction(replica.transformer, LATENTS, 0.3))


def test_bfloat16_is_close_to_float32(replica: Replica, files: Files) -> None:
    exact = stock_prediction(replica.transformer, LATENTS, 0.3)
    results = [
        load_transformer(files, CPU, torch.bfloat16, placement, silent).predict(
            LATENTS, 0.3, 3.5, EMBEDDINGS
        )
        for placement in ("expanded", "stored")
    ]
    assert torch.equal(*results)
    assert (results[0] - exact).norm() / exact.norm() < 0.02


def test_stored_weights_take_the_memory_of_the_file(files: Files) -> None:
    expanded, stored = (
        load_transformer(files, CPU, torch.float32, placement, silent).size_bytes
        for placement in ("expanded", "stored")
    )
    assert stored < files.transformer.stat().st_size < expanded / 2


def test_stored_weights_are_parameters() -> None:
    # Group offloading with a stream brings a module's buffers to the device and leaves them there.
    stored = torch.zeros(4, FORMATS["Q8_0"].block_bytes, dtype=torch.uint8)
    linear = StoredLinear(stored, FORMATS["Q8_0"], (4, 32), torch.zeros(4))
    assert [name for name, _ in linear.named_parameters()] == ["stored", "bias"]
    assert not list(linear.buffers())
    assert linear(torch.ones(2, 32)).tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("name", ["Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q5_1"])
def test_other_quantisations_load_by_the_same_code(name: str, tmp_path: Path) -> None:
    # Rows of the K-quants are blocks of 256.
    wide: dict[str, Any] = {"attention_head_dim": 128, "num_layers": 1, "num_single_layers": 1}
    wide |= {"axes_dims_rope": [32, 48, 48]}
    replica = write_replica(tmp_path / "models", quantisation=Quantisation[name], transformer=wide)
    transformer = load_transformer(
        job_files(replica.folder), CPU, torch.float32, "expanded", silent
    )
    result = transformer.predict(LATENTS, 0.3, 3.5, EMBEDDINGS)
    assert torch.equal(result, stock_prediction(replica.transformer, LATENTS, 0.3))


@pytest.mark.parametrize("name", [name for name in FORMATS if FORMATS[name].dtype is None])
def test_every_quantisation_expands_to_what_gguf_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(formats._AT_ONCE, "cpu", 3)  # so that there are several pieces
    kind = Quantisation[name]
    generator = np.random.default_rng(0)
    stored = generator.integers(0, 256, (4, 2 * FORMATS[name].block_bytes), np.uint8)
    expected = gguf.quants.dequantize(stored, kind)
    shape = (4, expected.shape[1])
    values = expand(torch.from_numpy(stored), FORMATS[name], shape, torch.float32).numpy()
    assert np.allclose(values, expected, rtol=1e-6, atol=0, equal_nan=True)


def test_names_with_the_prefix_of_a_whole_checkpoint_are_understood(tmp_path: Path) -> None:
    replica = write_replica(tmp_path / "models", prefix="model.diffusion_model.")
    check_transformer(job_files(replica.folder))


def test_the_autoencoder_equals_diffusers(replica: Replica, files: Files) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = safetensors.torch.load(replica.vae.read_bytes())
    stock = AutoencoderKL(**replica.configs["vae"]).eval()
    stock.load_state_dict(convert_ldm_vae_checkpoint(tensors, replica.configs["vae"]))
    autoencoder = load_autoencoder(files, CPU, torch.float32, silent)
    pixels = random(3, 64, 48, seed=4).sigmoid()
    with torch.inference_mode():
        latents = stock.encode(2 * pixels.unsqueeze(0) - 1).latent_dist.mode()
        expected = (latents[0] - 0.1159) * 0.3611
        decoded = stock.decode((expected / 0.3611 + 0.1159).unsqueeze(0)).sample[0]
    encoded = autoencoder.encode(pixels)
    assert encoded.shape == (16, 8, 6)
    assert torch.equal(encoded, expected)
    assert torch.equal(autoencoder.decode(encoded), decoded / 2 + 0.5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16])
def test_the_text_encoders_equal_transformers(dtype: torch.dtype, tmp_path: Path) -> None:
    replica = write_replica(tmp_path / "models")
    write_text_encoders(replica, dtype)
    files = job_files(replica.folder)
    tokens = tokenize("a cat", files)
    embeddings = encode(tokens, files, CPU, silent)
    with torch.inference_mode():
        assert torch.equal(embeddings.sequence, replica.t5(tokens.t5).last_hidden_state)
        assert torch.equal(embeddings.pooled, replica.clip(tokens.clip).pooler_output)


def test_the_fp16_encoder_is_used_where_it_is_installed(copy: Path) -> None:
    original = copy / "clip" / "t5xxl_fp16.safetensors"
    shutil.copy(copy / "clip" / "t5xxl_fp8_e4m3fn.safetensors", original)
    assert job_files(copy).t5 == original


def test_only_one_tensor_is_in_memory_on_its_way(files: Files) -> None:
    # What NumPy allocates is what is read; torch's own memory, the model's, is not traced.
    with open_gguf(files.transformer, "flux") as file:
        largest = max(entry.size_bytes for entry in file.entries.values())
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        peaks = []

        def each(done: int, total: int) -> None:
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.reset_peak()

        load_transformer(files, CPU, torch.float32, "expanded", each)
    finally:
        tracemalloc.stop()
    # The first covers the building of the module.
    assert max(peaks[1:]) - before < 2 * largest + 1_000_000


# --- tokens ----------------------------------------------------------------------------------


def test_the_empty_prompt_needs_no_tokenizer(copy: Path) -> None:
    for name in ("clip_l", "t5xxl"):
        (copy / "clip" / f"{name}.tokenizer.json").unlink()
    tokens = tokenize("", job_files(copy))
    assert tokens.clip[0, :3].tolist() == [48, 49, 49]
    assert tokens.t5[0, :3].tolist() == [1, 0, 0]
    assert (tokens.clip.shape, tokens.t5.shape) == ((1, 77), (1, 256))
    with pytest.raises(JobError, match=r"needs clip/clip_l.tokenizer.json.*pull flux") as refused:
        tokenize("a cat", job_files(copy))
    assert refused.value.code == ErrorCode.MODEL_NOT_FOUND


def test_a_prompt_is_wrapped_and_a_long_one_cut(files: Files) -> None:
    tokens = tokenize("a cat", files)
    assert tokens.clip[0, :5].tolist() == [48, 3, 4, 49, 49]
    assert tokens.t5[0, :4].tolist() == [3, 4, 1, 0]
    longer = tokenize("cat " * 300, files)
    assert longer.t5.shape == (1, 512)
    assert longer.clip[0, -2:].tolist() == [4, 49]
    assert not longer.truncated
    longest = tokenize("cat " * 600, files)
    assert longest.truncated
    assert longest.t5[0, -2:].tolist() == [4, 1]


@pytest.mark.parametrize(
    ("free_gib", "device", "placement"),
    [
        (30, "cuda", "expanded"),
        (15, "cuda", "stored"),
        (9, "cuda", "offloaded"),
        (9, "cpu", "stored"),
    ],
)
def test_the_transformer_is_placed_where_it_fits(
    free_gib: int, device: str, placement: Placement
) -> None:
    chosen = choose_placement(
        11_900_000_000, 12_708_281_504, torch.bfloat16, free_gib * 2**30, torch.device(device)
    )
    assert chosen == placement
