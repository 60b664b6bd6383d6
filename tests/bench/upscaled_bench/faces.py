"""One face in a job, file to file, beside the bare call of its network; half precision beside fp32.

The networks have their full size and random weights, because the time does not depend on them.
The distance of half precision does: it is that of random weights.
"""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.device.threads import settle_waiting

settle_waiting()
keep_freed_memory()

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

from upscaled_bench.face_detection import detection_s
from upscaled_bench.face_job import face_job
from upscaled_bench.table import GrowingTable
from upscaled_imaging.cores import computing_threads
from upscaled_imaging.rows import Picture
from upscaled_models.device.choice import find_device
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.device.threads import computing_thread
from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.loading import Descriptor
from upscaled_models.face.alignment import TEMPLATE
from upscaled_models.face.faces import CROP_PX, Face, Floats, Restore
from upscaled_models.face.networks import ARCHITECTURES, FaceNetwork
from upscaled_models.face.paste import FacePaste

_ROUNDS = 2
# A photograph with as many faces, each with as many pixels to a side of its square.
_WIDTH, _HEIGHT, _FACES, _FACE_PX = 1600, 1200, 3, 420
_BLOCK_ROWS = 64


def main() -> None:
    """A row per network and way of running it."""
    device = find_device("auto")
    computing_thread().run(lambda: _measure(device))


def _measure(device: torch.device) -> None:
    torch.set_num_threads(computing_threads())
    half, _ = choose_dtype("auto", device, bits=8)
    table = GrowingTable(
        f"one face, {NAMES[half]} on {device}, {torch.get_num_threads()} threads",
        ["network", "", "seconds", "beside the bare call"],
        [13, 34, 8, 20],
    )
    read_s, found_s = detection_s()
    table.add(["12 megapixels", "read once more for the detector", f"{read_s:.2f} s", ""])
    for name in _names():
        for row in _rows(name, device, half, found_s):
            table.add([name, *row])


def _rows(
    name: str, device: torch.device, half: torch.dtype, found_s: float
) -> Iterator[list[str]]:
    crop = np.random.default_rng(0).random((CROP_PX, CROP_PX, 3), np.float32)
    descriptor = _random(name)
    model: nn.Module = descriptor.model
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    torch_s = None
    if half == torch.float32:
        given = torch.from_numpy(crop).permute(2, 0, 1).unsqueeze(0) * 2 - 1
        [torch_s] = _best_of_each(lambda: _called(name, model, given))
    network = FaceNetwork(descriptor, device, half)
    with face_job(weights) as job:
        bare_s, faces_s, job_s = _best_of_each(
            lambda: network.restore(crop), lambda: _paste(network.restore), job
        )
    if torch_s is not None:
        yield ["torch, as spandrel loads it", *_time(torch_s, bare_s)]
    yield ["bare call", *_time(bare_s, bare_s)]
    yield ["in a picture, cut out and pasted", *_time(faces_s / _FACES, bare_s)]
    yield ["a photograph's job, file to file", *_time(job_s, bare_s)]
    yield ["its face found in 12 megapixels", *_time(found_s, bare_s)]
    if half != torch.float32:
        fp32 = FaceNetwork(morearchitectures.load(weights), device, torch.float32)
        distance = _psnr(network.restore(crop), fp32.restore(crop))
        yield [f"{NAMES[half]} to fp32, random weights", f"{distance:.1f} dB", ""]


def _names() -> Iterator[str]:
    for name in ARCHITECTURES:
        if name != "CodeFormer" or morearchitectures.is_installed():
            yield name


def _random(name: str) -> Descriptor:
    """A network of the published size."""
    torch.manual_seed(0)
    module: nn.Module
    if name == "GFPGAN":
        from spandrel.architectures.GFPGAN import GFPGAN

        module = GFPGAN()
    elif name == "RestoreFormer":
        from spandrel.architectures.RestoreFormer import RestoreFormer

        module = RestoreFormer()
    else:
        from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

        module = CodeFormer()
    descriptor: Descriptor = morearchitectures.load(module.state_dict())
    descriptor.model.eval().requires_grad_(False)
    return descriptor


@torch.inference_mode()
def _called(name: str, model: nn.Module, given: torch.Tensor) -> None:
    ARCHITECTURES[name].call(model, given)


def _paste(restore: Restore) -> None:
    """Restore the faces of a picture, without a detector."""
    picture = Picture(_WIDTH, _HEIGHT, 3, 8)
    faces = [_face(_WIDTH * (number + 0.5) / _FACES) for number in range(_FACES)]
    block = np.full((_BLOCK_ROWS, _WIDTH, 3), 128, np.uint8)
    blocks = (block for _ in range(0, _HEIGHT, _BLOCK_ROWS))
    for _ in FacePaste(faces, picture, restore).rows(blocks):
        pass


def _face(x: float) -> Face:
    corner = np.array([x, _HEIGHT / 2]) - _FACE_PX / 2
    return Face((*corner, _FACE_PX, _FACE_PX), 1.0, TEMPLATE * _FACE_PX / CROP_PX + corner)


def _best_of_each(*runs: Callable[[], object]) -> list[float]:
    """The least seconds of each. They run in turns, so that what disturbs one disturbs all."""
    best = [math.inf] * len(runs)
    for _ in range(_ROUNDS):
        for number, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


def _time(seconds: float, bare_s: float) -> list[str]:
    return [f"{seconds:.2f} s", f"{seconds / bare_s:.2f}x"]


def _psnr(one: Floats, other: Floats) -> float:
    return float(10 * np.log10(1 / max(float(np.mean((one - other) ** 2)), 1e-12)))
