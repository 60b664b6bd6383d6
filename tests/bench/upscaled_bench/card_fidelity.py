"""How exact results are on a device: half precision, tiles, and the same job twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch
from safetensors.torch import save_file
from torch import nn

from upscaled_bench.card_job import run_job
from upscaled_bench.card_networks import Size, save_networks
from upscaled_bench.photograph import write_photograph
from upscaled_bench.timebudget import Report, TimeBudget
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.configs import EsrganConfig

# The contrast that random networks are given: results that are cut off differ in nothing.
_CONTRAST = 0.15
NETWORKS = ("compact-x4", "RRDB 23x64", "SwinIR-S", "Compact 16x64")
_SAMPLE = (96, 64)


def compare_results(
    engine: EsrganEngine,
    folder: Path,
    size: Size,
    device: torch.device,
    budget: TimeBudget,
    report: Report,
    names: Sequence[str] = NETWORKS,
) -> None:
    """Distances of results in bytes, beside results that are computed in exact float32."""
    source = write_photograph(folder / "fidelity.png", *size)
    networks = save_networks(folder)
    host = EsrganEngine(Settings(model_dir=folder, device="cpu"))
    host.start()
    for name in names:
        if budget.left_s <= 0:
            report.add("fidelity", {"network": name, "skipped": "no time left"})
            continue
        weights = networks[name]()
        if name != "compact-x4":
            weights = _with_contrast(weights)
        distances = _distances(engine, host, weights, source, budget)
        report.add("fidelity", {"network": name, "picture": list(size), **distances})
        print(f"{name}: {distances}", flush=True)


def _distances(
    engine: EsrganEngine, host: EsrganEngine, weights: Path, source: Path, budget: TimeBudget
) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def result(engine: EsrganEngine = engine, **fields: object) -> np.ndarray:
        output = source.with_name("compared.png")
        config = EsrganConfig.model_validate(
            {"image_path": str(source), "output_path": str(output), "model": str(weights)} | fields
        )
        outcome, watched = run_job(engine, config)
        found.setdefault("precisions", []).append(outcome.precision)
        if watched.warnings:
            found.setdefault("warnings", []).extend(watched.warnings)
        pixels: np.ndarray = pyvips.Image.new_from_file(str(output)).numpy()
        return pixels

    def compare(title: str, first: Callable[[], np.ndarray], second: np.ndarray) -> None:
        found[title] = distance(first(), second) if budget.left_s > 0 else "no time left"

    usual = result()
    found["range"] = [int(usual.min()), int(usual.max()), float(usual.std())]
    full = result(precision="fp32")
    with exact():
        precise = result(precision="fp32")
    compare("usual, the same again", result, usual)
    compare("usual to exact fp32", lambda: usual, precise)
    compare("fp32 as jobs get it to exact fp32", lambda: full, precise)
    compare("bf16 to exact fp32", lambda: result(precision="bf16"), precise)
    compare("usual, tile_size 128, to usual", lambda: result(tile_size=128), usual)
    compare("fp32, tile_size 128, to fp32", lambda: result(tile_size=128, precision="fp32"), full)
    compare("the processor's fp32 to exact fp32", lambda: result(host, precision="fp32"), precise)
    return found


def distance(first: np.ndarray, second: np.ndarray) -> str:
    """PSNR, the share of values that differ, and by how much at most."""
    difference = np.abs(first.astype(np.int64) - second)
    if not difference.any():
        return "equal"
    psnr = 10 * np.log10(255**2 / np.square(difference.astype(np.float64)).mean())
    return f"{psnr:.1f} dB, {(difference > 0).mean():.3%}, at most {difference.max()}"


@contextmanager
def exact() -> Iterator[None]:
    """Float32 without TensorFloat-32, which has 10 bits."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@torch.inference_mode()
def _with_contrast(weights: Path) -> Path:
    """The network with its last convolution scaled, so that its results are pictures."""
    descriptor = load_descriptor(weights)
    module = descriptor.model
    last = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)][-1]
    width, height = _SAMPLE
    result = module(torch.rand(1, 3, height, width))
    factor = _CONTRAST / float(result.std())
    last.weight.mul_(factor)
    if last.bias is not None:
        last.bias.mul_(factor).add_(0.5 - float(result.mean()) * factor)
    path = weights.with_name(f"{weights.stem}-contrast.safetensors")
    save_file({name: value.contiguous() for name, value in module.state_dict().items()}, path)
    return path
