"""FLUX's transformer at its full size on a device: model calls in each placement, beside the bare
module, and steps of a whole band with the autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from upscaled_bench.card_job import peak_memory, wait_for
from upscaled_bench.flux import _bandwidth, _ceiling, computing_dtype
from upscaled_bench.flux_random import random_transformer
from upscaled_bench.timebudget import Report, TimeBudget, measured
from upscaled_models.device.out_of_memory import free_caches, is_out_of_memory
from upscaled_models.flux.autoencoder import Autoencoder
from upscaled_models.flux.cost import call_operations
from upscaled_models.flux.libraries import AutoencoderKL
from upscaled_models.flux.refiner import Refiner, Request
from upscaled_models.flux.sampling import noise_levels
from upscaled_models.flux.text import T5_LENGTHS, Embeddings
from upscaled_models.flux.transformer import PATCH, Placement, Transformer, _positions

_PLACEMENTS: tuple[Placement, ...] = ("expanded", "stored", "offloaded")
_CALL_S = 4.0
_ROUNDS = 5
_LEVEL, _GUIDANCE = 0.4, 3.5
# FLUX.1-dev's.
_SHIFT = 3.1581929096897672
_STEPS = 4
# The band of the measured steps: so many tiles to each side.
_ACROSS = 2


def random_embeddings(config: dict[str, Any]) -> Embeddings:
    """Of a prompt of the usual length."""
    return Embeddings(
        torch.randn(1, T5_LENGTHS[0], config["joint_attention_dim"]),
        torch.randn(1, config["pooled_projection_dim"]),
    )


def compare_placements(
    config: dict[str, Any],
    vae: dict[str, Any],
    device: torch.device,
    tile: int,
    batches: tuple[int, ...],
    budget: TimeBudget,
    report: Report,
) -> None:
    """Seconds per model call in each placement, fastest first; the same weights give the same
    prediction in all of them."""
    dtype = computing_dtype(device)
    ceiling, bandwidth = _ceiling(device, dtype), _bandwidth(device)
    machine = {"matrices_tflop_s": ceiling / 1e12, "copies_gb_s": bandwidth / 1e9}
    report.keep("rates", machine)
    print(f"matrix products {ceiling / 1e12:.1f} TFLOP/s, copies {bandwidth / 1e9:.0f} GB/s")
    embeddings = random_embeddings(config)
    sample = torch.randn(2, config["in_channels"] // 4, 16, 16)
    expected = None
    for placement in _PLACEMENTS:
        if budget.left_s <= 0:
            report.add("flux calls", {"placement": placement, "skipped": "no time left"})
            print(f"{placement}: skipped, no time left", flush=True)
            continue
        start = time.perf_counter()
        transformer = random_transformer(config, device, dtype, placement)
        loaded = time.perf_counter() - start
        calls = [transformer.predict(sample, _LEVEL, _GUIDANCE, embeddings) for _ in range(2)]
        held = torch.cuda.memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        expected = calls[0].cpu() if expected is None else expected
        difference = max(_relative(call.cpu(), expected) for call in calls)
        found = {"placement": placement, "loaded_s": loaded, "held_gib": held,
                 "difference": difference}  # fmt: skip
        report.add("flux calls", found)
        print(
            f"{placement}: loaded in {loaded:.1f} s, {held:.1f} GiB are held; "
            f"largest difference to expanded weights: {difference:.3g}",
            flush=True,
        )
        assert difference < 0.02, "the placements predict different pictures"
        for batch in batches:
            if budget.left_s > 0:
                floor = max(
                    batch * call_operations(config, tile) / ceiling,
                    transformer.size_bytes / bandwidth,
                )
                _measure_calls(transformer, config, tile, batch, floor, placement, budget, report)
        if placement == "expanded" and budget.left_s > 0:
            _measure_steps(transformer, config, vae, tile, budget, report)
        del transformer, calls
        free_caches()


def _relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).abs().max() / second.abs().max())


def _measure_calls(
    transformer: Transformer,
    config: dict[str, Any],
    tile: int,
    batch: int,
    floor: float,
    placement: str,
    budget: TimeBudget,
    report: Report,
) -> None:
    device = transformer.device
    latents = torch.randn(batch, config["in_channels"] // 4, tile // 8, tile // 8).to(device)
    embeddings = random_embeddings(config)

    def call() -> None:
        transformer.predict(latents, _LEVEL, _GUIDANCE, embeddings)
        wait_for(device)

    try:
        with peak_memory(device) as peak:
            ours = measured(call, budget, limit_s=_CALL_S, rounds=_ROUNDS)
        module = _bare(transformer, config, tile, batch)
        theirs = measured(module, budget, limit_s=_CALL_S, rounds=_ROUNDS)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        report.add("flux calls", {"placement": placement, "tiles": batch, "failed": str(error)})
        print(f"    {batch} tiles: out of memory", flush=True)
        return
    found = {
        "placement": placement,
        "tiles": batch,
        "tile": tile,
        "ours": ours.as_dict(),
        "bare": theirs.as_dict(),
        "floor_s": floor,
        "memory": peak,
    }
    report.add("flux calls", found)
    print(
        f"    {batch} tiles of {tile}: a call {ours.least_s:.4f} s, bare {theirs.least_s:.4f} s "
        f"({ours.least_s / theirs.least_s:.3f}), of the floor {ours.least_s / floor:.2f}; "
        f"{ours.least_s / batch:.4f} s per tile; {peak}",
        flush=True,
    )


def _bare(
    transformer: Transformer, config: dict[str, Any], tile: int, batch: int
) -> Callable[[], None]:
    """The library's module on tensors that lie on the device."""
    device, dtype = transformer.device, transformer.dtype
    side = tile // 8 // PATCH
    embeddings = random_embeddings(config)
    numbers = torch.full((batch,), 0.4, device=device)
    given = {
        "hidden_states": torch.randn(batch, side**2, config["in_channels"]).to(device, dtype),
        "encoder_hidden_states": embeddings.sequence.to(device, dtype).expand(batch, -1, -1),
        "pooled_projections": embeddings.pooled.to(device, dtype).expand(batch, -1),
        "timestep": numbers,
        "guidance": numbers,
        "img_ids": _positions(side, side, device),
        "txt_ids": torch.zeros(embeddings.sequence.shape[1], 3, device=device),
    }
    transformer._conditioning.set(numbers, numbers)

    @torch.inference_mode()
    def run() -> None:
        transformer._module(**given, return_dict=False)
        wait_for(device)

    return run


def _measure_steps(
    transformer: Transformer,
    config: dict[str, Any],
    vae: dict[str, Any],
    tile: int,
    budget: TimeBudget,
    report: Report,
) -> None:
    """A band as jobs refine it: encoded, denoised and decoded tile by tile."""
    device = transformer.device
    with device:
        module: Any = AutoencoderKL(**vae).eval()
    autoencoder = Autoencoder(module.requires_grad_(False), device, torch.float32)
    request = Request(
        random_embeddings(config), noise_levels(_STEPS, 0.3, _SHIFT), _GUIDANCE, seed=1
    )
    refiner = Refiner(
        autoencoder, transformer, request, tile_size=tile, memory_bytes=2**34, host=_Host()
    )
    band = torch.rand(3, tile, _ACROSS * (tile - tile // 8))
    parts: dict[str, float] = {}
    for title, call in (
        ("encode", lambda: autoencoder.encode(band[:, :, :tile])),
        ("decode", lambda: autoencoder.decode(autoencoder.encode(band[:, :, :tile])).cpu()),
        ("band", lambda: refiner.refine(band, 0)),
    ):

        def run(call: Callable[[], torch.Tensor] = call) -> None:
            call()
            wait_for(device)

        parts[title] = measured(run, budget, limit_s=_CALL_S, rounds=3).least_s
    parts["decode"] -= parts["encode"]
    per_tile = parts["band"] / _ACROSS
    per_step = (per_tile - parts["encode"] - parts["decode"]) / _STEPS
    found = {"steps": _STEPS, "tiles": _ACROSS, "tile": tile, "parts_s": parts,
             "step_s_per_tile": per_step}  # fmt: skip
    report.keep("flux steps", found)
    print(
        f"    a band of {_ACROSS} tiles in {_STEPS} steps {parts['band']:.3f} s: per tile encode "
        f"{parts['encode']:.4f}, decode {parts['decode']:.4f}, a step {per_step:.4f} s",
        flush=True,
    )


class _Host:
    """The host of a refiner that fails in nothing."""

    def check_cancelled(self) -> None: ...

    def band_progress(self, done: int, total: int) -> None: ...

    def make_room(self) -> None: ...
