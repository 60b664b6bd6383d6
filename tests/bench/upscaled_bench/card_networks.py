"""Networks on a device: this engine from file to file, beside torch's forward of the whole picture
in the same precision, channels last."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from upscaled_bench.architectures import _FAMILIES, _narrowed, _save
from upscaled_bench.card_job import parts_of, peak_memory, profiled, run_job, wait_for
from upscaled_bench.networks import save_larger, save_rrdb
from upscaled_bench.photograph import write_photograph
from upscaled_bench.timebudget import Report, TimeBudget, measured
from upscaled_models.catalog import bundled_weights_dir
from upscaled_models.device.out_of_memory import free_caches, is_out_of_memory
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.configs import EsrganConfig

Size = tuple[int, int]

# Seconds for one rival with one picture.
_RIVAL_S = 2.5
# Runs that are never left out: the first of each rival, and the one that is taken apart.
_LEAST_RUNS = 3
_NORMALISATIONS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.InstanceNorm2d)
# These are profiled: both kinds of network by rows, and one in tiles.
_PROFILED = ("RRDB 23x64", "Compact 16x64", "SwinIR-S")


@cache
def save_networks(folder: Path) -> dict[str, Callable[[], Path]]:
    """By name, what writes each network's weights file: those that people use first."""

    def bundled() -> Path:
        return Path(shutil.copy(bundled_weights_dir() / "compact-x4.safetensors", folder))

    def family(name: str) -> Callable[[], Path]:
        return lambda: _save(_FAMILIES[name], folder / f"{name}.safetensors")

    by_rows = {
        "RRDB 23x64": lambda: save_rrdb(folder / "rrdb.safetensors"),
        "Compact 16x64": lambda: save_larger(folder / "compact-16x64.pth"),
        "compact-x4": bundled,
    }
    # The last two take longest.
    others = ("SPAN", "RealPLKSR", "Real-CUGAN", "SwinIR-S", "DAT-light", "HAT-S")
    # Once each: a file that is written again is loaded again.
    return {
        name: cache(save)
        for name, save in (by_rows | {name: family(name) for name in others}).items()
    }


@contextmanager
def bare(weights: Path, device: torch.device, dtype: torch.dtype) -> Iterator[nn.Module]:
    """The network's module on the device, in that precision, channels last."""
    module = _narrowed(load_descriptor(weights).model, dtype).to(device)
    yield module
    del module
    free_caches()


def forward(module: nn.Module, picture: Tensor) -> Callable[[], Tensor]:
    """A call of the module that waits for its result."""
    call = launched(module, picture)

    def run() -> Tensor:
        result = call()
        wait_for(picture.device)
        return result

    return run


def launched(module: nn.Module, picture: Tensor) -> Callable[[], Tensor]:
    """A call of the module that does not wait for the device."""
    # Layers that stay in float32, and masks that are made in it, need casts.
    casts = any(isinstance(layer, _NORMALISATIONS) for layer in module.modules())
    dtype = picture.dtype

    @torch.inference_mode()
    def run() -> Tensor:
        casting = casts and dtype != torch.float32
        with torch.autocast(picture.device.type, dtype, enabled=casting):
            # Some networks write into what they are given.
            result: Tensor = module(picture.clone() if casts else picture)
        return result

    return run


def random_picture(size: Size, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Noise, (1, 3, h, w), channels last."""
    width, height = size
    picture = torch.rand(1, 3, height, width, device=device)
    return picture.to(dtype, memory_format=torch.channels_last)


def compare_networks(
    engine: EsrganEngine,
    folder: Path,
    size: Size,
    device: torch.device,
    budget: TimeBudget,
    report: Report,
    *,
    pace: dict[str, float],
    names: Sequence[str] = (),
) -> None:
    """Measure one network after the other, as far as the time suffices.

    pace: seconds per pixel of networks that were measured before; it is added to. names: those to
    measure, or all.
    """
    dtype, _ = choose_dtype("auto", device, bits=8)
    width, height = size
    part = f"networks, {width}x{height}"
    source = write_photograph(folder / f"{width}x{height}.png", width, height)
    print(f"\n{part}, {NAMES[dtype]} on {device}", flush=True)
    for name, save in save_networks(folder).items():
        if names and name not in names:
            continue
        expected = _LEAST_RUNS * pace.get(name, 0.0) * width * height
        if budget.left_s <= expected:
            report.add(part, {"network": name, "skipped": f"{expected:.0f} s are not left"})
            print(f"{name}: skipped, {expected:.0f} s are not left", flush=True)
            continue
        result: dict[str, Any] = {"network": name}
        try:
            result |= _compared(engine, save(), source, size, device, dtype, budget)
            if name in _PROFILED:
                result["profile"] = _profile(engine, _config(folder, source, save()), device)
            pace[name] = result["ours"]["least_s"] / (width * height)
        except Exception as error:  # noqa: BLE001 - reported, and the others are measured
            result["failed"] = f"{type(error).__name__}: {error}"[:500]
        engine.trim()
        report.add(part, result)
        _tell(result)


def _profile(engine: EsrganEngine, config: EsrganConfig, device: torch.device) -> dict[str, Any]:
    try:
        return profiled(lambda: new_job(engine, config), device)
    except Exception as error:  # noqa: BLE001 - reported; the times do not need it
        print(f"the profiler failed: {error}", flush=True)
        return {}


def _config(folder: Path, source: Path, weights: Path) -> EsrganConfig:
    output = folder / "out.png"
    return EsrganConfig(image_path=str(source), output_path=str(output), model=str(weights))


def new_job(engine: EsrganEngine, config: EsrganConfig) -> None:
    """Run a job that writes a new file. If a file replaces another one, some file systems write it
    to the disk at once."""
    Path(config.output_path or "").unlink(missing_ok=True)
    run_job(engine, config)


def _compared(
    engine: EsrganEngine,
    weights: Path,
    source: Path,
    size: Size,
    device: torch.device,
    dtype: torch.dtype,
    budget: TimeBudget,
) -> dict[str, Any]:
    config = _config(weights.parent, source, weights)
    result: dict[str, Any] = {}
    with peak_memory(device) as peak:
        ours = measured(lambda: new_job(engine, config), budget, limit_s=_RIVAL_S)
    result |= {"ours": ours.as_dict(), "ours_memory": peak}
    result["job"] = parts_of(engine, config, device)
    try:
        picture = random_picture(size, device, dtype)
        with bare(weights, device, dtype) as module, peak_memory(device) as peak:
            theirs = measured(forward(module, picture), budget, limit_s=_RIVAL_S, rounds=9)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return result | {"torch": "out of memory"}
    network_s = result["job"]["parts_s"]["network"]
    return result | {
        "torch": theirs.as_dict(),
        "torch_memory": peak,
        "ours_of_torch": ours.least_s / theirs.least_s,
        "network_of_torch": network_s / theirs.least_s,
    }


def _tell(result: dict[str, Any]) -> None:
    if "failed" in result:
        print(f"{result['network']}: {result['failed']}", flush=True)
        return
    job, torchs = result["job"], result["torch"]
    way = ", ".join(
        f"{'rows' if each['by_rows'] else 'tiles'} {each['tile'][0]}x{each['tile'][1]}"
        f" x{each['tiles']}"
        for each in job["way"]
    )
    bare_s = torchs if isinstance(torchs, str) else f"{torchs['least_s'] * 1e3:.1f} ms"
    print(
        f"{result['network']}: ours {result['ours']['least_s'] * 1e3:.1f} ms "
        f"(first {result['ours']['first_s']:.2f} s), torch {bare_s}, ours of torch "
        f"{result.get('ours_of_torch', 0):.2f}, network of torch "
        f"{result.get('network_of_torch', 0):.2f}; {job['precision']}, {way}; "
        f"{'; '.join(job['tensors'])}",
        flush=True,
    )
    parts = ", ".join(f"{name} {s * 1e3:.1f}" for name, s in job["parts_s"].items())
    print(f"    in turns {job['whole_s'] * 1e3:.1f} ms: {parts}", flush=True)
    if job["warnings"]:
        print(f"    warned: {job['warnings']}", flush=True)
    if profile := result.get("profile"):
        copies = ", ".join(
            f"{name} {each['s'] * 1e3:.2f} ms in {each['count']}"
            for name, each in profile["copies"].items()
        )
        print(
            f"    the card was busy {profile['busy_s'] * 1e3:.1f} of {profile['whole_s'] * 1e3:.1f}"
            f" ms, {profile['kernels']} kernels; {copies}",
            flush=True,
        )
        for each in profile["longest"]:
            print(
                f"      {each['s'] * 1e3:8.2f} ms in {each['count']:5} {each['name']}", flush=True
            )
