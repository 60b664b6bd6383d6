"""The ESRGAN engine from file to file, compared with the network's best possible speed.

Rivals in one run, on one file, in turns; the best of several rounds counts:
- the bare forward of the network in half precision, on tiles of the best shape, without overlap;
- the engine's own forward, by rows, from planes in memory to bytes in memory;
- a plain tile loop in full precision, as Real-ESRGAN runs it: the whole picture decoded, tiles of
  192 pixels with a margin of 10, encoded at the end.
"""

# ruff: noqa: E402
from __future__ import annotations

from upscaled_models.allocator import keep_freed_memory
from upscaled_models.device.threads import computing_thread, settle_waiting
from upscaled_protocol.memorygroup import available_bytes

# The same settings as in a worker, for all rivals. torch reads them at import.
settle_waiting()
keep_freed_memory()

import copy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import orjson
import pyvips
import skimage.data
import torch
from torch import Tensor, nn

from upscaled_bench.networks import save_larger
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import seconds
from upscaled_bench.table import print_table
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.png import write_png
from upscaled_imaging.rows import Picture
from upscaled_models.catalog import bundled_weights_dir
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Settings
from upscaled_models.esrgan.architectures import MAIN_REGISTRY
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import Tile, choose_tile
from upscaled_protocol.configs import EsrganConfig

_WIDTH, _HEIGHT = 640, 448
_ROUNDS = 7
# Shapes that the bare forward is tried with, rows x columns.
_SHAPES = ((448, 640), (112, 640), (64, 640), (32, 640), (64, 448), (192, 192), (128, 128))
_LOOP_TILE, _LOOP_MARGIN = 192, 10
_QUEUED_JOBS = 6
_MATRIX_SIDE = 2048
_BATCH = 8


class Rival(NamedTuple):
    """What is measured, and how many pictures a call makes."""

    name: str
    run: Callable[[], object]
    pictures: float = 1.0


def main() -> None:
    """Throughput for the bundled network and for a larger one; the reference job; faithfulness."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundled = bundled_weights_dir() / "compact-x4.safetensors"
        larger = save_larger(folder / "larger.pth")
        source = write_photograph(folder / "in.png", _WIDTH, _HEIGHT)
        outputs = folder / "outputs"
        outputs.mkdir()
        engine = EsrganEngine(Settings(model_dir=folder))
        engine.start()
        for title, weights in (
            ("compact-x4", bundled),
            ("64 features, 16 convolutions", larger),
        ):
            _compare(engine, title, weights, source, outputs)
        _print_faithfulness(engine, bundled, source)
        _print_batches(engine, bundled, outputs)
        _print_memory(folder, bundled)


def _compare(engine: EsrganEngine, title: str, weights: Path, source: Path, outputs: Path) -> None:
    device_report = engine.device()
    assert device_report is not None
    device = torch.device(device_report.name)
    half, _ = choose_dtype("auto", device, bits=8)
    # In the engine's computing thread, so that OpenMP has only one team of threads.
    compute = computing_thread().run
    module = compute(lambda: load_descriptor(weights).model.to(device))
    fast = compute(lambda: copy.deepcopy(module).to(half, memory_format=torch.channels_last))
    flop = 2 * _WIDTH * _HEIGHT * sum(p.numel() for p in module.parameters() if p.dim() == 4)
    output = outputs / "out.png"

    def job(path: Path = output, turn: Lock | None = None) -> None:
        config = EsrganConfig(image_path=str(source), output_path=str(path), model=str(weights))
        engine.run(config, Surroundings(turn))

    def queue() -> None:
        turn = Lock()
        with ThreadPoolExecutor(2) as lane:
            paths = [outputs / f"{index}.png" for index in range(_QUEUED_JOBS)]
            list(lane.map(lambda path: job(path, turn), paths))

    tiles = [compute(lambda shape=shape: _tile(shape, half, device)) for shape in _SHAPES]  # type: ignore[misc]
    rivals = [
        Rival(
            f"bare forward, {rows}x{columns}",
            lambda tile=tile: compute(lambda: _forward(fast, tile)),  # type: ignore[misc]
            rows * columns / (_WIDTH * _HEIGHT),
        )
        for (rows, columns), tile in zip(_SHAPES, tiles, strict=True)
    ]
    network = compute(lambda: Network(load_descriptor(weights), device, half))
    picture = torch.rand(1, _HEIGHT, _WIDTH, 3, device=device).permute(0, 3, 1, 2)
    rivals += [
        Rival("the engine's forward", lambda: compute(lambda: _by_rows(network, picture))),
        Rival("file to file", job),
        Rival("file to file, queued", queue, _QUEUED_JOBS),
        Rival("plain tile loop", lambda: compute(lambda: _plain_loop(module, source, output))),
    ]
    matrix = compute(lambda: torch.rand(_MATRIX_SIDE, _MATRIX_SIDE, device=device).to(half))
    ceiling = Rival(
        "matrix product",
        lambda: compute(lambda: _wait(matrix @ matrix)),
        2 * _MATRIX_SIDE**3 / flop,
    )
    best = _best_rates([ceiling, *rivals], outputs)
    bare = max((rival for rival in rivals if rival.name.startswith("bare")), key=best.get)  # type: ignore[arg-type]
    shown = [ceiling, bare, *rivals[-4:]]
    print_table(
        f"{title}, {_WIDTH}x{_HEIGHT} to {4 * _WIDTH}x{4 * _HEIGHT}, {NAMES[half]} on {device}",
        ["", "s a picture", "of the bare forward", "of the plain loop", "GFLOP/s"],
        [
            [
                rival.name,
                f"{1 / best[rival]:.3f}",
                f"{best[rival] / best[bare]:.2f}",
                f"{best[rival] / best[rivals[-1]]:.1f}x",
                f"{best[rival] * flop / 1e9:.0f}",
            ]
            for rival in shown
        ],
    )


def _best_rates(rivals: list[Rival], outputs: Path) -> dict[Rival, float]:
    """Pictures per second of each rival, the best of several rounds in which all take turns.

    Each writes new files, as jobs do. If a file replaces another one, some file systems write it to
    the disk at once.
    """
    best = dict.fromkeys(rivals, 0.0)
    for round_number in range(1 + _ROUNDS):
        for rival in rivals:
            rate = rival.pictures / seconds(rival.run)
            if round_number:  # what loads, loads in the first
                best[rival] = max(best[rival], rate)
            for file in outputs.iterdir():
                file.unlink()
    return best


def _tile(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.rand(1, *shape, 3, device=device).to(dtype).permute(0, 3, 1, 2)


def _forward(module: nn.Module, tile: Tensor) -> None:
    with torch.inference_mode():
        _wait(module(tile))


def _by_rows(network: Network, picture: Tensor) -> None:
    height, width = picture.shape[2:]
    memory = available_bytes() // 2
    tile = choose_tile(
        network, width=width, height=height, planes=1, tile_size=None, memory_bytes=memory
    )
    stage = Stage(network, width, height, tile, _Watched(), as_bytes=True)
    for rows in stage.run([picture]):
        _wait(rows)


def _wait(result: Tensor) -> None:
    if result.device.type == "cuda":
        torch.cuda.synchronize()


def _plain_loop(module: nn.Module, source: Path, output: Path) -> None:
    device = next(module.parameters()).device
    pixels = pyvips.Image.new_from_file(str(source)).numpy()
    picture = torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).float().to(device) / 255
    height, width = picture.shape[2:]
    result = picture.new_zeros(1, 3, 4 * height, 4 * width)
    with torch.inference_mode():
        for top in range(0, height, _LOOP_TILE):
            for left in range(0, width, _LOOP_TILE):
                bottom, right = min(top + _LOOP_TILE, height), min(left + _LOOP_TILE, width)
                above, before = max(top - _LOOP_MARGIN, 0), max(left - _LOOP_MARGIN, 0)
                tile = module(
                    picture[:, :, above : bottom + _LOOP_MARGIN, before : right + _LOOP_MARGIN]
                )
                y, x = 4 * (top - above), 4 * (left - before)
                high, wide = 4 * (bottom - top), 4 * (right - left)
                result[:, :, 4 * top : 4 * bottom, 4 * left : 4 * right] = tile[
                    :, :, y : y + high, x : x + wide
                ]
    rows = result[0].clamp(0, 1).permute(1, 2, 0).mul(255).round().byte().cpu().numpy()
    # Our own encoder, the fastest here: the loop is what is compared.
    with output.open("wb") as file:
        write_png(iter([rows]), file, Picture(4 * width, 4 * height, 3, 8), Metadata())


def _print_faithfulness(engine: EsrganEngine, weights: Path, source: Path) -> None:
    def result(**fields: object) -> np.ndarray:
        output = source.with_name("out.png")
        config = EsrganConfig.model_validate(
            {"image_path": str(source), "output_path": str(output), "model": str(weights)} | fields
        )
        engine.run(config, Surroundings())
        pixels: np.ndarray = pyvips.Image.new_from_file(str(output)).numpy()
        return pixels

    usual, full = result(), result(precision="fp32")
    print_table(
        "results beside each other: compact-x4, and RRDB of 6 blocks with random weights",
        ["", "PSNR", "pixels that differ"],
        [
            ["tiles of 64 pixels, to the usual bands", *_difference(result(tile_size=64), usual)],
            ["the same in fp32", *_difference(result(tile_size=64, precision="fp32"), full)],
            ["half precision, to fp32", *_difference(usual, full)],
            ["RRDB, overlapping tiles to rows", *computing_thread().run(_blended_to_exact)],
        ],
    )


@torch.inference_mode()
def _blended_to_exact() -> tuple[str, str]:
    """Tiles that see 64 of the 94 pixels that a network looks far, to the whole frame."""
    from spandrel.architectures.ESRGAN import ESRGAN

    torch.manual_seed(0)
    weights = ESRGAN(num_blocks=6).state_dict()
    network = Network(MAIN_REGISTRY.load(weights), torch.device("cpu"), torch.float32)
    rows = torch.from_numpy(skimage.data.coffee()[100:196, 100:356].copy())  # type: ignore[no-untyped-call]
    source = rows.permute(2, 0, 1).unsqueeze(0).float() / 255

    def pixels(network: Network, tile: Tile) -> np.ndarray:
        stage = Stage(network, source.shape[3], source.shape[2], tile, _Watched())
        result = torch.cat(list(stage.run([source])), 2)
        return (result.clamp(0, 1) * 255).round().numpy()

    return _difference(pixels(network.in_tiles(), Tile(96, 96)), pixels(network, Tile(256, 64)))


class _Watched:
    """The host of a stage that fails in nothing."""

    def tile_done(self) -> None: ...

    def make_room(self) -> None: ...

    def full_precision(self, failed: Network) -> Network:
        raise NotImplementedError


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[str, str]:
    error = (first.astype(np.float64) - second) ** 2
    if not error.any():
        return "equal", "0"
    return f"{10 * np.log10(255**2 / error.mean()):.1f} dB", f"{(error > 0).mean():.2%}"


def _print_batches(engine: EsrganEngine, weights: Path, outputs: Path) -> None:
    """What small pictures of one size would gain if the network took several at once."""
    device = torch.device("cpu")
    half, _ = choose_dtype("auto", device, bits=8)
    compute = computing_thread().run
    network = compute(lambda: Network(load_descriptor(weights), device, half))
    table = []
    for side in (64, 128, 256):
        source = write_photograph(outputs.with_name("small.png"), side, side)
        config = EsrganConfig(
            image_path=str(source), output_path=str(outputs / "o.png"), model=str(weights)
        )

        def forward(count: int, side: int = side) -> None:
            picture = torch.rand(count, side, side, 3).permute(0, 3, 1, 2)
            with torch.inference_mode():
                network.open(side, side + network.lag).feed(picture)

        rivals = [
            Rival("job", lambda config=config: engine.run(config, Surroundings())),  # type: ignore[misc]
            Rival("alone", lambda forward=forward: compute(lambda: forward(1))),  # type: ignore[misc]
            Rival("batch", lambda forward=forward: compute(lambda: forward(_BATCH)), _BATCH),  # type: ignore[misc]
        ]
        rates = _best_rates(rivals, outputs)
        table.append([f"{side}x{side}", *(f"{1e3 / rates[rival]:.1f} ms" for rival in rivals)])
    print_table(
        "compact-x4: small pictures",
        ["", "file to file", "of that the network", f"the network, {_BATCH} pictures in a batch"],
        table,
    )


def _print_memory(folder: Path, weights: Path) -> None:
    jobs = []
    for width, height in ((1600, 1200), (2000, 500), (2000, 12_500)):
        source = write_photograph(folder / f"{width}x{height}.png", width, height)
        command = ["upscaled_bench.one_job", str(weights), str(source), str(folder / "large.png")]
        told = subprocess.run([sys.executable, "-m", *command], stdout=subprocess.PIPE, check=True)
        jobs.append((width, height, orjson.loads(told.stdout)))
    print_table(
        "compact-x4: time and peak memory, a process each",
        ["", "seconds", "output megapixels a second", "peak memory"],
        [
            [
                f"{width}x{height} to {4 * width}x{4 * height}",
                f"{job['seconds']:.1f}",
                f"{16e-6 * width * height / job['seconds']:.1f}",
                f"{job['peak_bytes'] / 2**20:.0f} MiB",
            ]
            for width, height, job in jobs
        ],
    )
