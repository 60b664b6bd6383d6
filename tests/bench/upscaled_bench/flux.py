"""FLUX: time and memory of each part, on files and weights that the benchmark makes.

Quantised weights to floating point, compared with the library's functions; loading; a whole job on
a replica; and model calls at the real width, compared with the device's best possible speed: two
blocks on a processor, the whole transformer on a GPU.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import torch
from gguf.constants import GGMLQuantizationType

from upscaled_bench.flux_random import RandomFile, published_config, random_transformer
from upscaled_bench.flux_replicas import install_upscaler, write_replica
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_bench.pipes import seconds
from upscaled_bench.table import print_table
from upscaled_models.device.out_of_memory import free_caches, is_out_of_memory
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Settings
from upscaled_models.flux.autoencoder import Autoencoder
from upscaled_models.flux.cost import call_operations
from upscaled_models.flux.engine import FluxEngine
from upscaled_models.flux.formats import FORMATS, expand
from upscaled_models.flux.libraries import dequantize_functions
from upscaled_models.flux.text import T5_LENGTHS, Embeddings
from upscaled_models.flux.transformer import Placement, Transformer
from upscaled_protocol.configs import FluxConfig

_ROUNDS = 3
# Of what takes milliseconds.
_MANY_ROUNDS = 15
_MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
_COPIED_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}
# One of each kind of block, at the real width: what a processor gets done in seconds.
TWO_BLOCKS = {"num_layers": 1, "num_single_layers": 1}
# Large enough that a replica's time is spent in arithmetic.
_REPLICA = {"num_attention_heads": 4, "attention_head_dim": 64, "axes_dims_rope": [16, 24, 24]}
_TILE = 512


def main() -> None:
    """Print all tables."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print_expansion()
    print_loading(published_config() | TWO_BLOCKS)
    print_job(_REPLICA)
    on_gpu = device.type == "cuda"
    config = published_config() | ({} if on_gpu else TWO_BLOCKS)
    print_calls(config, device, batches=(1, 2, 4, 8) if on_gpu else (1, 2))


def print_expansion(rows: int = 3072, columns: int = 12_288) -> None:
    """Quantised weights of one layer to bfloat16."""
    table = []
    for name in ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_0"):
        kind = FORMATS[name]
        count = rows * columns // kind.block_values
        stored = torch.zeros(count * kind.block_bytes, dtype=torch.uint8)
        blocks = stored.view(-1, kind.block_bytes)
        stock = dequantize_functions[GGMLQuantizationType[name]]
        sizes = (kind.block_values, kind.block_bytes)

        def ours() -> None:
            expand(stored, kind, (rows, columns), torch.bfloat16)  # noqa: B023

        def theirs() -> None:
            stock(blocks, *sizes, torch.float32).to(torch.bfloat16)  # noqa: B023

        spent, stock_spent = _best(ours, _MANY_ROUNDS), _best(theirs, _MANY_ROUNDS)
        rate = rows * columns / spent / 1e9
        table.append([name, f"{rate:.2f}", f"{stock_spent / spent:.1f}x"])
    print_table(
        "weights expanded to bfloat16 on the processor",
        ["", "billions a second", "of diffusers' way"],
        table,
    )


def print_loading(config: Mapping[str, Any]) -> None:
    """Reading a transformer's file, and what that takes of the host's memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, table = Path(name), []
        gguf = folder / "random.gguf"
        RandomFile(config).write(gguf)
        write_config(folder, config)
        size = gguf.stat().st_size
        for placement in ("stored", "expanded"):
            measured = load_apart(folder, gguf, placement)
            table.append(
                [
                    placement,
                    f"{size / 1e6:.0f} MB",
                    f"{size / measured['seconds'] / 1e9:.1f} GB/s",
                    f"{measured['peak_bytes'] / 1e6:.0f} MB",
                ]
            )
    print_table("loading", ["", "file", "read at", "host memory at its peak"], table)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write a transformer's config into a model folder."""
    own = folder / "configs" / "transformer"
    own.mkdir(parents=True)
    (own / "config.json").write_bytes(orjson.dumps(config))


def load_apart(folder: Path, gguf: Path, placement: str) -> dict[str, float]:
    """Load the file in another process: its seconds and its peak memory."""
    module = "upscaled_bench.flux_loading"
    command = [sys.executable, "-m", module, str(folder), str(gguf), placement]
    output = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    return dict(orjson.loads(output))


def print_job(
    transformer: Mapping[str, Any], steps: int = 20, width: int = 320, height: int = 256
) -> None:
    """Print each part's share of a job's time, on a replica of all files."""
    with tempfile.TemporaryDirectory() as name:
        replica = write_replica(Path(name) / "models", transformer=transformer)
        picture = write_photograph(Path(name) / "in.png", width, height)
        upscaler = install_upscaler(replica.folder)
        engine = FluxEngine(Settings(model_dir=replica.folder))
        engine.start()

        def job(**config: Any) -> None:
            output = str(Path(name) / "out.png")
            given: dict[str, Any] = {
                "image_path": str(picture),
                "upscale_model": upscaler,
                "steps": steps,
            }
            engine.run(FluxConfig(output_path=output, **given | config), Surroundings())

        job(denoise=0.0)
        first = seconds(job)
        enlarging = seconds(lambda: job(denoise=0.0))
        with _timed() as spent:
            whole = seconds(job)
        engine.close()
    parts = {
        "first stage, and both files": enlarging,
        "tiles to latents": spent["encode"],
        "model calls": spent["predict"],
        "latents to tiles": spent["decode"],
    }
    parts["cutting, noise, blending"] = max(whole - sum(parts.values()), 0.0)
    print_table(
        f"a job on a replica, {width}x{height} to {4 * width}x{4 * height}, {steps} steps; "
        f"its first took {first - whole:.1f} s more, to load and to encode the prompt",
        ["", "seconds", "share"],
        [[part, f"{value:.2f}", f"{value / whole:.0%}"] for part, value in parts.items()],
    )


def print_calls(
    config: Mapping[str, Any],
    device: torch.device,
    *,
    batches: Sequence[int],
    placements: Sequence[Placement] = ("expanded", "stored", "offloaded"),
    tile: int = _TILE,
) -> None:
    """Model calls beside their floor: what this device measures for matrices and for copies."""
    dtype = computing_dtype(device)
    ceiling, bandwidth = _ceiling(device, dtype), _bandwidth(device)
    table = []
    for placement in placements:
        if placement == "offloaded" and device.type == "cpu":
            continue  # the same as stored
        start = time.perf_counter()
        transformer = random_transformer(config, device, dtype, placement)
        loaded = f"{placement}, loaded in {time.perf_counter() - start:.0f} s"
        reading_s = transformer.size_bytes / bandwidth
        for batch in batches:
            spent, peak = _call(transformer, config, batch, tile)
            if spent is None:
                table.append([loaded, str(batch), "out of memory", "", "", "", ""])
                break
            floor = max(batch * call_operations(config, tile) / ceiling, reading_s)
            row = [loaded, str(batch), f"{spent:.3f}", f"{spent / batch:.3f}", f"{floor:.3f}"]
            memory = f"{peak / 2**30:.1f} GiB" if peak else "not measured"
            table.append([*row, f"{floor / spent:.0%}", memory])
        del transformer
        free_caches()
    blocks = f"{config['num_layers']} + {config['num_single_layers']} blocks"
    print_table(
        f"model calls, {blocks}, tiles of {tile} pixels, {NAMES[dtype]} on {device}; products of "
        f"matrices {ceiling / 1e12:.2f} TFLOP/s, memory {bandwidth / 1e9:.0f} GB/s",
        ["weights", "tiles", "s a call", "s a tile", "floor", "reached", "device memory"],
        table,
    )


def computing_dtype(device: torch.device) -> torch.dtype:
    """What the engine computes in there."""
    return torch.bfloat16 if device.type == "cuda" else choose_dtype("auto", device, bits=8)[0]


def _call(
    transformer: Transformer, config: Mapping[str, Any], batch: int, tile: int
) -> tuple[float | None, int]:
    """Seconds of a call, None if memory ran out; and the device's memory at its peak."""
    device = transformer.device
    latents = torch.randn(batch, config["in_channels"] // 4, tile // 8, tile // 8).to(device)
    embeddings = Embeddings(
        torch.randn(1, T5_LENGTHS[0], config["joint_attention_dim"]),
        torch.randn(1, config["pooled_projection_dim"]),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        spent = _best(lambda: transformer.predict(latents, 0.4, 3.5, embeddings).cpu())
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None, 0
    return spent, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0


def _ceiling(device: torch.device, dtype: torch.dtype) -> float:
    side = _MATRIX_SIDE[device.type]
    matrix = torch.rand(side, side, device=device).to(dtype)
    return 2 * side**3 / _best(lambda: _wait(matrix @ matrix))


def _bandwidth(device: torch.device) -> float:
    source = torch.zeros(_COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    # A byte is read and a byte is written.
    return 2 * source.nbytes / _best(lambda: _wait(target.copy_(source)))


def _wait(result: torch.Tensor) -> None:
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)


def _best(run: Callable[[], object], rounds: int = _ROUNDS) -> float:
    run()
    return min(seconds(run) for _ in range(rounds))


@contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Seconds that the models take meanwhile, by what they do."""
    spent: dict[str, float] = {}
    with ExitStack() as held:
        for owner, name in (
            (Autoencoder, "encode"),
            (Autoencoder, "decode"),
            (Transformer, "predict"),
        ):
            timing = _timing(getattr(owner, name), spent)
            held.enter_context(mock.patch.object(owner, name, timing))
        yield spent


def _timing(
    method: Callable[..., torch.Tensor], spent: dict[str, float]
) -> Callable[..., torch.Tensor]:
    spent[method.__name__] = 0.0

    @wraps(method)
    def timed(*given: Any) -> torch.Tensor:
        start = time.perf_counter()
        result = method(*given)
        _wait(result)
        spent[method.__name__] += time.perf_counter() - start
        return result

    return timed
