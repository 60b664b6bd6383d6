"""Jobs on a card that has too little memory for their tiles."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyvips
import torch

from upscaled_bench.card_fidelity import distance
from upscaled_bench.card_job import run_job
from upscaled_bench.card_networks import save_networks
from upscaled_bench.flux_replicas import install_upscaler, write_replica
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.timebudget import Report
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.flux.engine import FluxEngine
from upscaled_protocol.configs import EsrganConfig, FluxConfig

# Left to a job that is to run out of memory: less than its first tiles want.
_LEFT_BYTES = 400 * 2**20
# Left by another program that takes the rest of the card.
_BESIDE_BYTES = 3 * 2**30


def run_esrgan_out_of_memory(engine: EsrganEngine, folder: Path, report: Report) -> None:
    """A picture whose tiles do not fit is finished in smaller ones, to almost the same pixels."""
    picture = write_photograph(folder / "memory.png", 1600, 1200)
    failures = []
    for name in ("compact-x4", "RRDB 23x64", "SwinIR-S"):
        model = str(save_networks(folder)[name]())
        try:
            found = _in_little_memory(engine, folder, picture, model)
        except Exception as error:  # noqa: BLE001 - reported, and the others are run
            found = f"{type(error).__name__}: {error}"
            failures.append(name)
        report.add("esrgan out of memory", {"network": name, "result": found})
        print(f"{name} with {_LEFT_BYTES >> 20} MiB: {found}", flush=True)
        engine.trim()
    assert not failures, f"did not finish: {failures}"


def _in_little_memory(engine: EsrganEngine, folder: Path, picture: Path, model: str) -> str:
    """Run a job with enough memory and with little; what happened then."""

    def job(path: Path) -> tuple[np.ndarray, list[str]]:
        config = EsrganConfig(
            image_path=str(picture), output_path=str(path), model=model, tile_size=2048
        )
        outcome, watched = run_job(engine, config)
        return pixels(path), [*watched.warnings, f"in {outcome.precision}"]

    whole, _ = job(folder / "whole.png")
    start = time.perf_counter()
    with little_memory():
        less, found = job(folder / "less.png")
    took = time.perf_counter() - start
    return f"finished in {took:.2f} s, to the whole picture: {distance(less, whole)}; {found}"


def run_beside_another(
    engine: EsrganEngine, folder: Path, device: torch.device, report: Report
) -> None:
    """A job on a card that another program has nearly filled: its tiles fit from the start."""
    picture = write_photograph(folder / "memory.png", 1600, 1200)
    model = str(save_networks(folder)["RRDB 23x64"]())
    config = EsrganConfig(
        image_path=str(picture), output_path=str(folder / "less.png"), model=model
    )
    free_caches()
    free, _ = torch.cuda.mem_get_info(device)
    taken = torch.empty(free - _BESIDE_BYTES, dtype=torch.uint8, device=device)
    start = time.perf_counter()
    _, watched = run_job(engine, config)
    found = f"{time.perf_counter() - start:.2f} s; warnings: {watched.warnings}"
    del taken
    free_caches()
    report.keep("esrgan beside another program", found)
    print(f"RRDB beside a program that leaves {_BESIDE_BYTES >> 30} GiB: {found}", flush=True)


def run_flux_out_of_memory(folder: Path, report: Report) -> None:
    """A FLUX job whose tiles do not fit is finished in smaller ones, and says so."""
    replica = write_replica(folder / "replica")
    upscaler = install_upscaler(replica.folder)
    picture = write_photograph(folder / "flux.png", 512, 512)
    engine = FluxEngine(Settings(model_dir=replica.folder))
    engine.start()
    output = folder / "flux-out.png"
    given = FluxConfig(
        image_path=str(picture),
        output_path=str(output),
        upscale_model=upscaler,
        steps=2,
        tile_size=2048,
    )
    engine.run(given, Surroundings())
    before = pixels(output)
    with little_memory():
        engine.run(given, Surroundings())
    found = f"finished (a warning above says how), to whole: {distance(pixels(output), before)}"
    engine.close()
    report.keep("flux out of memory", found)
    print(f"FLUX with {_LEFT_BYTES >> 20} MiB: {found}", flush=True)


@contextmanager
def little_memory() -> Iterator[None]:
    """Leave so little of the card's memory that a job has to make do."""
    free_caches()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved(0) + _LEFT_BYTES
    torch.cuda.set_per_process_memory_fraction(allowed / total, 0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def pixels(path: Path) -> np.ndarray:
    """A picture's."""
    values: np.ndarray = pyvips.Image.new_from_file(str(path)).numpy()
    return values
