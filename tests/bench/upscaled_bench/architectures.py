"""Families of networks, compared with torch and OpenVINO.

For each network, with random weights, in one run: this engine from file to file, torch's forward
of the whole picture, channels last, and OpenVINO's forward if it is installed. Slow networks get a
smaller picture.
"""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.device.threads import computing_thread, settle_waiting

# The same settings as in a worker, for all rivals. torch reads them at import.
settle_waiting()
keep_freed_memory()

import copy
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import nn

from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import seconds
from upscaled_bench.rivals import openvino_forward
from upscaled_bench.table import GrowingTable
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.configs import EsrganConfig

_USUAL, _LARGE, _SMALL, _LEAST = (640, 448), (256, 192), (128, 96), (64, 64)
_ROUNDS = 4
_HEADER = ["", "picture", "upscaled", "torch", "of torch", "OpenVINO", "of OpenVINO"]
_WIDTHS = [10, 7, 13, 13, 11, 13, 11]


class Family(NamedTuple):
    """A network in the size that people run: its class, its module, what it is built with, and the
    width and height of the picture that it is measured with."""

    name: str
    module: str
    sizes: dict[str, Any]
    picture: tuple[int, int] = _SMALL


_FAMILIES = {
    "compact-x4": Family("Compact", "Compact", {"num_feat": 48, "num_conv": 10}, _USUAL),
    "Compact 32": Family("Compact", "Compact", {"num_feat": 64, "num_conv": 32}, _LARGE),
    "SPAN": Family("SPAN", "SPAN", {"num_in_ch": 3, "num_out_ch": 3}, _LARGE),
    "RealPLKSR": Family("RealPLKSR", "PLKSR", {}),
    "SwinIR-S": Family(
        "SwinIR",
        "SwinIR",
        {
            "embed_dim": 60,
            "depths": [6] * 4,
            "num_heads": [6] * 4,
            "window_size": 8,
            "mlp_ratio": 2,
            "upscale": 4,
            "upsampler": "pixelshuffledirect",
        },
    ),
    "DAT-light": Family(
        "DAT",
        "DAT",
        {
            "embed_dim": 60,
            "depth": [18],
            "num_heads": [6],
            "split_size": [8, 32],
            "expansion_factor": 2,
            "upscale": 4,
            "resi_connection": "3conv",
            "upsampler": "pixelshuffledirect",
        },
    ),
    "HAT-S": Family(
        "HAT",
        "HAT",
        {
            "embed_dim": 144,
            "depths": [6] * 6,
            "num_heads": [6] * 6,
            "window_size": 16,
            "compress_ratio": 24,
            "squeeze_factor": 24,
            "mlp_ratio": 2,
            "upscale": 4,
        },
        _LEAST,  # OpenVINO takes a minute to convert it
    ),
    "Real-CUGAN": Family("UpCunet4x", "RealCUGAN", {}, _LARGE),
}


@torch.inference_mode()
def main() -> None:
    """The least time of each in some rounds in which all take turns."""
    dtype, _ = choose_dtype("auto", torch.device("cpu"), bits=8)
    compute = computing_thread().run
    notes = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        engine = EsrganEngine(Settings(model_dir=folder, device="cpu"))
        engine.start()
        table = GrowingTable(
            "file to file, beside bare forwards: seconds, in brackets those of the processors; "
            f"{NAMES[dtype]}, {torch.get_num_threads()} threads",
            _HEADER,
            _WIDTHS,
        )
        for number, (title, family) in enumerate(_FAMILIES.items(), 1):
            print(f"{title}, {number} of {len(_FAMILIES)}", file=sys.stderr, flush=True)
            path = folder / f"{title}.safetensors"
            # Nothing computes in this thread: with two teams of threads none would spin.
            rivals, note = compute(lambda: _rivals(engine, family, path, dtype))  # noqa: B023
            notes.add(note)
            best = {rival: _Times() for rival in rivals}
            for _ in range(_ROUNDS):
                for rival, run in rivals.items():
                    best[rival].measure(run)
            ours, other = best["ours"], best.get("OpenVINO")
            table.add(
                [
                    title,
                    "{}x{}".format(*family.picture),
                    str(ours),
                    str(best["torch"]),
                    ours.of(best["torch"]),
                    *(("-", "-") if other is None else (str(other), ours.of(other))),
                ]
            )
    print("", *sorted(notes - {""}), sep="\n")


class _Times:
    """The least seconds that something took, and the least of the processors' seconds, which other
    programs lengthen less."""

    def __init__(self) -> None:
        self._wall = self._processor = float("inf")

    def measure(self, run: Callable[[], object]) -> None:
        """Run it once."""
        before = time.process_time()
        self._wall = min(self._wall, seconds(run))
        self._processor = min(self._processor, time.process_time() - before)

    def of(self, other: _Times) -> str:
        """As a share of another's."""
        return f"{self._wall / other._wall:.2f} ({self._processor / other._processor:.2f})"

    def __str__(self) -> str:
        return f"{self._wall:.2f} ({self._processor:.2f})"


@torch.inference_mode()
def _rivals(
    engine: EsrganEngine, family: Family, weights: Path, dtype: torch.dtype
) -> tuple[dict[str, Callable[[], object]], str]:
    """By name, and why one of them is missing. The weights are written to their path."""
    _save(family, weights)
    width, height = family.picture
    source = write_photograph(weights.with_name(f"{width}x{height}.png"), width, height)
    compute = computing_thread().run
    output = weights.with_suffix(".png")
    config = EsrganConfig(image_path=str(source), output_path=str(output), model=str(weights))
    module = load_descriptor(weights).model
    picture = torch.rand(1, 3, height, width)
    fast = _narrowed(module, dtype)
    narrow = picture.to(dtype, memory_format=torch.channels_last)

    rivals: dict[str, Callable[[], object]] = {
        "ours": lambda: engine.run(config, Surroundings()),
        "torch": lambda: compute(lambda: _forward(fast, narrow, dtype)),
    }
    try:
        rivals["OpenVINO"] = openvino_forward(module, picture, dtype)
    except ImportError:
        return rivals, "OpenVINO is not installed: pip install openvino"
    except Exception as error:  # noqa: BLE001 - it cannot convert every network
        reason = str(error).strip().partition("\n")[0][:100]
        return rivals, f"OpenVINO cannot convert {weights.stem}: {reason}"
    return rivals, ""


def _narrowed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    narrowed: Any = copy.deepcopy(module)
    narrowed.to(dtype=dtype, memory_format=torch.channels_last)
    for layer in narrowed.modules():
        if isinstance(layer, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm2d):
            layer.float()
    return narrowed  # type: ignore[no-any-return]


@torch.inference_mode()
def _forward(module: nn.Module, picture: torch.Tensor, dtype: torch.dtype) -> object:
    # Many architectures make masks and positions in fp32; some write into what they are given.
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        return module(picture.clone())


def _save(family: Family, path: Path) -> Path:
    torch.manual_seed(0)
    architecture = import_module(f"spandrel.architectures.{family.module}")
    module = getattr(architecture, family.name)(**family.sizes)
    save_file({name: weight.contiguous() for name, weight in module.state_dict().items()}, path)
    return path
