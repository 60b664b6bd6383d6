"""Other ways to run a network's forward on a card, beside the engine's: what could be won."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from upscaled_bench.card_job import peak_memory, wait_for
from upscaled_bench.card_networks import (
    Size,
    bare,
    forward,
    launched,
    random_picture,
    save_networks,
)
from upscaled_bench.timebudget import Report, TimeBudget, measured
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.device.precision import choose_dtype
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network

_RIVAL_S = 2.0
_ROUNDS = 9
# Networks whose forward makes nothing on the host.
BY_ROWS = ("RRDB 23x64", "Compact 16x64", "SPAN", "RealPLKSR", "Real-CUGAN")
# A forward that cannot be recorded leaves the allocator unusable: only those that surely can be.
_RECORDED = ("RRDB 23x64", "Compact 16x64", "compact-x4", "SPAN")
_COMPILED = ("Compact 16x64", "RRDB 23x64")
_WARM_UPS = 3

Run = Callable[[], object]


def compare_forwards(
    folder: Path,
    size: Size,
    device: torch.device,
    budget: TimeBudget,
    report: Report,
    names: Sequence[str] = BY_ROWS,
) -> None:
    """Each network's forward in several ways, in milliseconds."""
    networks = save_networks(folder)
    for name in names:
        if budget.left_s <= 0:
            print(f"{name}: skipped, no time left", flush=True)
            continue
        result = _ways(networks[name](), size, device, budget, record=name in _RECORDED)
        report.add("forwards", {"network": name, "picture": list(size), "ms": result})
        print(f"{name}, {size[0]}x{size[1]}, ms: {_shown(result)}", flush=True)


def compare_compiled(
    folder: Path, size: Size, device: torch.device, budget: TimeBudget, report: Report
) -> None:
    """The forward as torch compiles it, which takes long."""
    dtype, _ = choose_dtype("auto", device, bits=8)
    networks = save_networks(folder)
    for name in _COMPILED:
        if budget.left_s <= 0:
            return
        picture = random_picture(size, device, dtype)
        with bare(networks[name](), device, dtype) as module, _benchmark():
            module.compile(dynamic=False)
            times = measured(forward(module, picture), budget, rounds=_ROUNDS)
        report.add("compiled", {"network": name, "picture": list(size), **times.as_dict()})
        print(
            f"{name}, {size[0]}x{size[1]}: compiled {times.least_s * 1e3:.2f} ms, "
            f"in {times.first_s:.1f} s",
            flush=True,
        )


def _ways(
    weights: Path, size: Size, device: torch.device, budget: TimeBudget, *, record: bool
) -> dict[str, float | str]:
    dtype, _ = choose_dtype("auto", device, bits=8)
    picture = random_picture(size, device, dtype)
    found: dict[str, float | str] = {}

    def measure(title: str, begin: Callable[[], Run]) -> None:
        if budget.left_s <= 0:
            found[title] = "no time left"
            return
        try:
            with peak_memory(device) as peak:
                times = measured(begin(), budget, limit_s=_RIVAL_S, rounds=_ROUNDS)
            found[title] = times.least_s * 1e3
            if peak:
                found[f"{title}, GiB"] = peak["gib"]
        except Exception as error:  # noqa: BLE001 - reported, and the others are measured
            found[title] = f"{type(error).__name__}: {error}"[:200]
        free_caches()

    with bare(weights, device, dtype) as module:
        measure("eager", lambda: forward(module, picture))
        with _benchmark():
            measure("cuDNN's benchmark", lambda: forward(module, picture))
            if record and device.type == "cuda":
                measure("a CUDA graph of it", lambda: _graphed(module, picture))
            measure("a batch of 4 quarters", lambda: forward(module, _quarters(picture)))
            contiguous = picture.contiguous(memory_format=torch.contiguous_format)
            measure("planes, not channels last", lambda: forward(module, contiguous))
    if device.type == "cuda":
        with bare(weights, device, torch.bfloat16) as module:
            measure("bf16", lambda: forward(module, picture.to(torch.bfloat16)))
    network = Network(load_descriptor(weights), device, dtype)
    if network.by_rows:
        planes = random_picture(size, device, torch.float32)
        measure("the engine's graph, whole", lambda: _whole(network, planes))
        with _benchmark():
            measure("the same, cuDNN's benchmark", lambda: _whole(network, planes))
    return found


@contextmanager
def _benchmark() -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _whole(network: Network, planes: Tensor) -> Run:
    height = planes.shape[2]

    @torch.inference_mode()
    def run() -> None:
        network.open(height, height + network.lag).feed(planes)
        wait_for(planes.device)

    return run


def _graphed(module: nn.Module, picture: Tensor) -> Run:
    """Record one forward, to be launched at once."""
    run = launched(module, picture)
    beside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()

    def launch() -> None:
        graph.replay()
        wait_for(picture.device)

    return launch


def _quarters(picture: Tensor) -> Tensor:
    """The picture cut into four bands, as a batch."""
    _, _, height, _ = picture.shape
    bands = [picture[:, :, top : top + height // 4] for top in range(0, height - 3, height // 4)]
    return torch.cat(bands[:4]).contiguous(memory_format=torch.channels_last)


def _shown(result: dict[str, float | str]) -> str:
    return "; ".join(
        f"{title} {value if isinstance(value, str) else f'{value:.2f}'}"
        for title, value in result.items()
    )
