"""The way of an ESRGAN job on a device, and what its time is spent on."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile

from upscaled_bench.one_job import Surroundings
from upscaled_imaging.context import Phase
from upscaled_imaging.write import Sink
from upscaled_models.engine import Outcome
from upscaled_models.esrgan import enlargement
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.stage import Stage
from upscaled_protocol.configs import EsrganConfig

_SHOWN_KERNELS = 8
_NAME_LENGTH = 90
_COPIED_BYTES = 1 << 28


class Watched(Surroundings):
    """Keeps what a job warns of, and the seconds of its phases."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.phases: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def phase(self, phase: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase] += time.perf_counter() - start

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def run_job(engine: EsrganEngine, config: EsrganConfig) -> tuple[Outcome, Watched]:
    """Run one job; its outcome, and what it said."""
    watched = Watched()
    return engine.run(config, watched), watched


def wait_for(device: torch.device) -> None:
    """Wait until the device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parts_of(engine: EsrganEngine, config: EsrganConfig, device: torch.device) -> dict[str, Any]:
    """Run a job, and wait for the device after each part, so that nothing overlaps on it.

    Gives the seconds of each part, and the way that the job went.
    """
    spent: dict[str, float] = defaultdict(float)
    stages: list[Stage] = []
    seen: set[str] = set()

    def timed(name: str, call: Callable[..., Any], note: Callable[[Any], None]) -> Any:
        @wraps(call)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = call(*args, **kwargs)
            wait_for(device)
            spent[name] += time.perf_counter() - start
            note(result)
            return result

        return run

    def note_planes(planes: Any) -> None:
        seen.add(f"in {str(planes.dtype).removeprefix('torch.')}")

    def note_result(result: Any) -> None:
        if result is not None:
            last = result.is_contiguous(memory_format=torch.channels_last)
            seen.add(f"out {str(result.dtype).removeprefix('torch.')}, channels last: {last}")

    def begin(stage: Stage, *args: Any, **kwargs: Any) -> None:
        initialise(stage, *args, **kwargs)
        stages.append(stage)

    def nothing(_: Any) -> None: ...

    initialise = Stage.__init__
    with ExitStack() as held:
        for owner, name, title, note in (
            (enlargement, "to_picture", "copy in", note_planes),
            (Stage, "_step", "network", note_result),
            (Stage, "_checked", "checks, rounding", nothing),
            (enlargement, "to_rows", "copy out", nothing),
            (Sink, "write", "waiting for the encoder", nothing),
        ):
            patched = timed(title, getattr(owner, name), note)
            held.enter_context(mock.patch.object(owner, name, patched))
        held.enter_context(mock.patch.object(Stage, "__init__", begin))
        start = time.perf_counter()
        outcome, watched = run_job(engine, config)
        whole = time.perf_counter() - start
    device_parts = [spent[name] for name in ("copy in", "network", "checks, rounding", "copy out")]
    spent["waiting for rows, rest"] = watched.phases["inference"] - sum(device_parts)
    spent |= {
        "decoding (beside it)": watched.phases["decode"],
        "finding the network": watched.phases["load"],
        "encoding after the last row": watched.phases["encode"],
    }
    return {
        "whole_s": whole,
        "parts_s": dict(spent),
        "way": [_way(stage) for stage in stages],
        "tensors": sorted(seen),
        "precision": outcome.precision,
        "device": outcome.device,
        "warnings": watched.warnings,
    }


def _way(stage: Stage) -> dict[str, Any]:
    network = stage._network
    return {
        "precision": str(network.dtype),
        "by_rows": network.by_rows,
        "tile": [stage.tile.width, stage.tile.rows],
        "tiles": stage.tiles_done,
        "overlap": getattr(stage, "_overlap", None),
        "lag": network.lag,
    }


def profiled(run: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """What the card did meanwhile: the share of the time in which it was busy, its copies by kind,
    and the kernels that took longest. Empty without a card."""
    if device.type != "cuda":
        return {}
    wait_for(device)
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        start = time.perf_counter()
        run()
        wait_for(device)
        whole = time.perf_counter() - start
    kernels: dict[str, float] = defaultdict(float)
    counts: Counter[str] = Counter()
    spans = []
    for event in profiler.events() or ():
        if event.device_type.name != "CUDA" or getattr(event, "is_user_annotation", False):
            continue
        span = event.time_range
        spans.append((span.start, span.end))
        kernels[event.name] += span.elapsed_us() / 1e6
        counts[event.name] += 1
    copies = {name: s for name, s in kernels.items() if name.startswith(("Memcpy", "Memset"))}
    longest = sorted(kernels.items() - copies.items(), key=lambda item: -item[1])
    busy = _union_us(spans) / 1e6
    return {
        "whole_s": whole,
        "busy_s": busy,
        "busy_share": busy / whole,
        "kernels_s": sum(kernels.values()) - sum(copies.values()),
        "kernels": counts.total() - sum(counts[name] for name in copies),
        "copies": {name: {"s": s, "count": counts[name]} for name, s in copies.items()},
        "longest": [
            {"name": name[:_NAME_LENGTH], "s": s, "count": counts[name]}
            for name, s in longest[:_SHOWN_KERNELS]
        ],
    }


def _union_us(spans: list[tuple[float, float]]) -> float:
    total = end = 0.0
    for start, stop in sorted(spans):
        total += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return total


def copy_rates(device: torch.device) -> dict[str, float]:
    """GB/s between host and card, from pageable and from pinned memory. Empty without a card."""
    if device.type != "cuda":
        return {}
    there = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    rates = {}
    for kind in ("pageable", "pinned"):
        here = torch.zeros(_COPIED_BYTES, dtype=torch.uint8, pin_memory=kind == "pinned")
        for title, target, source in (("to", there, here), ("from", here, there)):
            best = float("inf")
            for _ in range(3):
                wait_for(device)
                start = time.perf_counter()
                target.copy_(source, non_blocking=True)
                wait_for(device)
                best = min(best, time.perf_counter() - start)
            rates[f"{title} the card, {kind}"] = _COPIED_BYTES / best / 1e9
    return rates


@contextmanager
def peak_memory(device: torch.device) -> Iterator[dict[str, float]]:
    """The most memory of the device that tensors took meanwhile, in GiB. Empty without a card."""
    peak: dict[str, float] = {}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if device.type == "cuda":
        peak["gib"] = torch.cuda.max_memory_allocated(device) / 2**30
