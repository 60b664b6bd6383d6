"""RRDB, the network of Real-ESRGAN and 4x-UltraSharp, compared with other programs.

All in one run, on one picture: this engine from file to file, Real-ESRGAN's own loop over tiles,
and bare forwards without files, of torch, and of OpenVINO and ncnn if they are installed.
"""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.device.threads import computing_thread, settle_waiting

# The same settings as in a worker, for all rivals. torch reads them at import.
settle_waiting()
keep_freed_memory()

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from upscaled_bench.esrgan import _plain_loop
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import seconds
from upscaled_bench.rivals import ncnn_forward, openvino_forward
from upscaled_bench.table import print_table
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.configs import EsrganConfig

_WIDTH, _HEIGHT = 256, 192
_BLOCKS = 23
_ROUNDS = 3
# It finds torch's OpenMP in the process, and starts more threads there. After that no
# thread of the others spins while it waits.
_LAST = "ncnn's forward"
_MATRIX_SIDE = 2048


@torch.inference_mode()
def main() -> None:
    """The least time of each in some rounds in which all but ncnn take turns."""
    device = torch.device("cpu")
    dtype, _ = choose_dtype("auto", device, bits=8)
    compute = computing_thread().run
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = compute(lambda: _save_rrdb(folder / "rrdb.safetensors"))
        source, output = write_photograph(folder / "in.png", _WIDTH, _HEIGHT), folder / "out.png"
        engine = EsrganEngine(Settings(model_dir=folder, device="cpu"))
        engine.start()
        config = EsrganConfig(image_path=str(source), output_path=str(output), model=str(weights))
        # Nothing computes in this thread: with two teams of threads none would spin.
        rivals, missing = compute(lambda: _rivals(weights, source, output, dtype))
        ours = {"upscaled, file to file": lambda: engine.run(config, Surroundings())}
        last = {name: rivals.pop(name) for name in [_LAST] if name in rivals}
        best = _best({**ours, **rivals}, output) | _best(last, output)
    product = 2 * _MATRIX_SIDE**3 / _forward_flop()
    wall, processor = (seconds / product for seconds in best.pop(""))
    best["as many products in a matrix product"] = (wall, processor)
    our_wall, our_processor = best["upscaled, file to file"]
    print_table(
        f"RRDB of {_BLOCKS} blocks, {_WIDTH}x{_HEIGHT} to {4 * _WIDTH}x{4 * _HEIGHT}, "
        f"{torch.get_num_threads()} threads",
        ["", "seconds", "of ours", "processor seconds", "of ours"],
        [
            [
                name,
                f"{wall:.2f}",
                f"{wall / our_wall:.2f}x",
                f"{processor:.2f}",
                f"{processor / our_processor:.2f}x",
            ]
            for name, (wall, processor) in best.items()
        ],
    )
    print(*missing, sep="\n", end="\n" if missing else "")


@torch.inference_mode()
def _rivals(
    weights: Path, source: Path, output: Path, dtype: torch.dtype
) -> tuple[dict[str, Callable[[], object]], Sequence[str]]:
    """By name; the matrix product has none. And which are not installed."""
    compute = computing_thread().run
    module = load_descriptor(weights).model
    fast = copy.deepcopy(module).to(dtype=dtype, memory_format=torch.channels_last)
    picture = torch.rand(1, 3, _HEIGHT, _WIDTH)
    narrow = picture.to(dtype, memory_format=torch.channels_last)
    matrix = torch.rand(_MATRIX_SIDE, _MATRIX_SIDE).to(dtype)
    rivals: dict[str, Callable[[], object]] = {
        f"torch's forward, {NAMES[dtype]}, channels last": lambda: compute(
            lambda: _forward(fast, narrow)
        ),
        "Real-ESRGAN's loop, fp32, file to file": lambda: compute(
            lambda: _plain_loop(module, source, output)
        ),
        "": lambda: compute(lambda: matrix @ matrix),
    }
    missing = []
    others: dict[str, Callable[[], Callable[[], object]]] = {
        f"OpenVINO's forward, {NAMES[dtype]}": lambda: openvino_forward(module, picture, dtype),
        _LAST: lambda: ncnn_forward(module.state_dict(), _BLOCKS, picture),
    }
    for rival, begin in others.items():
        try:
            rivals[rival] = begin()
        except ImportError as error:
            missing.append(f"{rival} is not measured: pip install {error.name}")
    return rivals, missing


@torch.inference_mode()
def _forward(module: nn.Module, picture: Tensor) -> object:
    return module(picture)


def _save_rrdb(path: Path) -> Path:
    """Random weights: only the speed counts."""
    from spandrel.architectures.ESRGAN import ESRGAN

    import upscaled_models.esrgan.loading  # noqa: F401 - torchvision's operators, before spandrel

    torch.manual_seed(0)
    save_file(ESRGAN(num_blocks=_BLOCKS, scale=4).state_dict(), path)
    return path


def _forward_flop() -> float:
    """Of the forward as the network's layers say it, without any shortcut."""
    dense = sum(9 * (64 + 32 * part) * (64 if part == 4 else 32) for part in range(5))
    per_pixel = 9 * 3 * 64 + _BLOCKS * 3 * dense + 9 * 64 * 64 * (1 + 4 + 16 + 16) + 16 * 9 * 64 * 3
    return 2.0 * per_pixel * _WIDTH * _HEIGHT


def _best(rivals: dict[str, Callable[[], object]], output: Path) -> dict[str, tuple[float, float]]:
    """The least time of each, and the least processor time, which other programs lengthen less."""
    best = dict.fromkeys(rivals, (float("inf"), float("inf")))
    for _ in range(_ROUNDS):
        for name, run in rivals.items():
            before = time.process_time()
            wall = seconds(run)
            processor = time.process_time() - before
            best[name] = (min(best[name][0], wall), min(best[name][1], processor))
            output.unlink(missing_ok=True)
    return best
