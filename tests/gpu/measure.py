"""All that only a GPU can show, within a given time: `python tests/gpu/measure.py`.

- networks: each job's way and its parts, and the job beside torch's bare forward;
- forwards: other ways to run the same networks;
- fidelity: half precision, tiles, and the same job twice;
- memory: jobs that run out of it;
- flux: the transformer at its full size with random weights, in all placements, beside the bare
  module;
- compiled: networks as torch compiles them.

Results are printed as they come, and kept in a JSON file if `--json` names one. If the time ends,
the parts that are left are named as skipped. Without a GPU, `--tiny` runs what a processor can, at
sizes that mean nothing. Exit status 1: something failed; what follows it was run nevertheless.

A checkout need not be installed: set PYTHONPATH=protocol:models:tests/bench then.
"""

# ruff: noqa: E402
from __future__ import annotations

import time

_STARTED = time.monotonic()

# Before torch is imported: it settles how threads wait.
import upscaled_bench.architectures  # noqa: F401

# isort: split
import argparse
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any, NamedTuple

import torch

from upscaled_bench import card_flux, flux
from upscaled_bench.card_fidelity import NETWORKS, compare_results
from upscaled_bench.card_forwards import BY_ROWS, compare_compiled, compare_forwards
from upscaled_bench.card_job import copy_rates
from upscaled_bench.card_memory import (
    run_beside_another,
    run_esrgan_out_of_memory,
    run_flux_out_of_memory,
)
from upscaled_bench.card_networks import compare_networks
from upscaled_bench.flux_random import published_config
from upscaled_bench.flux_replicas import CONFIGS
from upscaled_bench.timebudget import Report, TimeBudget
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine

_TINY = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "axes_dims_rope": [8, 12, 12],
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
}
# What a processor can run too.
_WITHOUT_CARD = ("networks", "forwards", "flux", "fidelity", "replica")
_SECONDS = 240.0
# A part that hangs is ended so long before the time is over.
_LAST_S = 3.0


class Part(NamedTuple):
    """What is measured, and the most of the whole time that it may take."""

    name: str
    share: float
    run: Callable[[TimeBudget], object]


def main() -> int:
    """Run the parts, the most valuable ones first; the exit status."""
    given = _arguments()
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not given.tiny:
        print("There is no GPU here: nothing is measured. --tiny runs the parts that can.")
        return 0
    budget = TimeBudget(given.seconds - (time.monotonic() - _STARTED))
    report = Report(given.json)
    watchdog = Timer(budget.left_s - _LAST_S, _give_up, (report,))
    watchdog.daemon = True
    watchdog.start()
    report.keep("about", about := _about())
    print(about, flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as name:
        parts = _parts(Path(name), report, tiny=given.tiny)
        chosen = [part for part in parts if not given.only or part.name in given.only]
        # A part that is not chosen leaves its share to the others.
        shares = min(sum(part.share for part in chosen), 1.0)
        for part in chosen:
            if budget.left_s < _LAST_S:
                print(f"\n{part.name}: skipped, no time left", flush=True)
                report.add("skipped", part.name)
                continue
            started = time.monotonic()
            own = budget.part(min(part.share / shares * given.seconds, budget.left_s - _LAST_S))
            print(f"\n== {part.name}, at most {own.left_s:.0f} s", flush=True)
            try:
                part.run(own)
            except Exception:  # noqa: BLE001 - reported, and the others are run
                traceback.print_exc()
                report.add("failed", {part.name: traceback.format_exc()})
                failed.append(part.name)
            free_caches()
            report.add("took", {part.name: time.monotonic() - started})
    print(f"\n{time.monotonic() - _STARTED:.0f} s; failed: {failed or 'none'}", flush=True)
    return int(bool(failed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small, also on a processor")
    parser.add_argument(
        "--seconds", type=float, default=_SECONDS, help="the time for everything (%(default)s)"
    )
    parser.add_argument("--json", type=Path, help="a file for all results")
    parser.add_argument("--only", nargs="+", metavar="PART", help="the parts to run")
    return parser.parse_args()


def _parts(folder: Path, report: Report, *, tiny: bool) -> list[Part]:
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    engine = EsrganEngine(Settings(model_dir=folder, device=str(device)))
    engine.start()
    small, large = ((40, 32), (48, 40)) if tiny else ((640, 448), (1920, 1080))
    # RRDB takes seconds on the processor.
    sample = (40, 32) if tiny else (256, 192)
    config = published_config() | (_TINY if tiny else {})
    vae = CONFIGS["vae"] if tiny else published_config("vae")
    tile, batches = (128, (2,)) if tiny else (512, (1, 2, 4, 8))
    names = ("compact-x4",) if tiny else ()
    job = (2, 40, 32) if tiny else (20, 320, 256)
    pace: dict[str, float] = {}

    def networks(size: tuple[int, int]) -> Callable[[TimeBudget], object]:
        return lambda own: compare_networks(
            engine, folder, size, device, own, report, pace=pace, names=names
        )

    def forwards(size: tuple[int, int]) -> Callable[[TimeBudget], object]:
        return lambda own: compare_forwards(folder, size, device, own, report, names or BY_ROWS)

    def calls(own: TimeBudget) -> None:
        card_flux.compare_placements(config, vae, device, tile, batches, own, report)

    def results(own: TimeBudget) -> None:
        compare_results(engine, folder, sample, device, own, report, names or NETWORKS)

    parts = [
        Part("networks", 0.25, networks(small)),
        Part("forwards", 0.12, forwards(small)),
        Part("networks-large", 0.25, networks(large)),
        Part("flux", 0.25, calls),
        Part("memory", 0.15, lambda _: run_esrgan_out_of_memory(engine, folder, report)),
        Part("beside", 0.05, lambda _: run_beside_another(engine, folder, device, report)),
        Part("memory-flux", 0.1, lambda _: run_flux_out_of_memory(folder, report)),
        Part("fidelity", 0.12, results),
        Part("forwards-large", 0.1, forwards(large)),
        Part("compiled", 0.3, lambda own: compare_compiled(folder, small, device, own, report)),
        Part("replica", 0.1, lambda _: flux.print_job({}, *job)),
    ]
    if device.type == "cuda":
        return parts
    return [part for part in parts if part.name in _WITHOUT_CARD]


def _about() -> dict[str, Any]:
    about: dict[str, Any] = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "imports_s": time.monotonic() - _STARTED,
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        about |= {
            "card": properties.name,
            "memory_gib": properties.total_memory / 2**30,
            "processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
            "tf32_in_convolutions": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "copies_gb_s": copy_rates(torch.device("cuda:0")),
        }
    return about


def _give_up(report: Report) -> None:
    """End the process: a part outran its time, and a call of the card cannot be interrupted."""
    print("\nthe time is over: what is left was skipped", flush=True)
    report.keep("ended early", True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
