"""All that only a GPU can show, in one go: `python tests/gpu/measure.py`.

FLUX at its full size with random weights (seconds a call and memory, beside the floor), its three
placements beside each other, a job on a replica, memory running out, and the ESRGAN benchmark.
Where no GPU is, it says so; `--tiny` then runs what a processor can, at sizes that mean nothing.
Exit status 1: something failed; what follows it was run nevertheless.

A checkout need not be installed: set PYTHONPATH=protocol:models:tests/bench then.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch

from upscaled_bench import esrgan, flux
from upscaled_bench.flux_random import published_config, random_transformer
from upscaled_bench.flux_replicas import install_upscaler, write_replica
from upscaled_bench.one_job import Surroundings
from upscaled_bench.photograph import write_photograph
from upscaled_models.catalog import bundled_weights_dir
from upscaled_models.device.out_of_memory import free_caches
from upscaled_models.engine import Settings
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.flux.engine import FluxEngine
from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.transformer import Placement
from upscaled_protocol.configs import EsrganConfig, FluxConfig

_TINY = {
    "num_layers": 1,
    "num_single_layers": 1,
    "num_attention_heads": 2,
    "attention_head_dim": 32,
    "axes_dims_rope": [8, 12, 12],
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
}
_PLACEMENTS: tuple[Placement, ...] = ("expanded", "stored", "offloaded")
# Left to a job that is to run out of memory: less than its first tiles want.
_LEFT_BYTES = 400 * 2**20


def main() -> int:
    """Run every part; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--tiny", action="store_true", help="small, also on a processor")
    tiny = parser.parse_args().tiny
    on_gpu = torch.cuda.is_available()
    if not on_gpu and not tiny:
        print("There is no GPU here: nothing is measured. --tiny runs the parts that can.")
        return 0
    device = torch.device("cuda:0" if on_gpu else "cpu")
    name = torch.cuda.get_device_name(device) if on_gpu else "the processor"
    print(f"{name}, torch {torch.__version__}")
    config = published_config() | (_TINY if tiny else {})
    batches, tile, steps = ((1, 2), 128, 2) if tiny else ((1, 2, 4, 8), 512, 20)
    width, height = (40, 32) if tiny else (320, 256)
    parts: list[Callable[[], object]] = [
        lambda: compare_placements(config, device),
        lambda: flux.print_calls(config, device, batches=batches, tile=tile),
        lambda: flux.print_job({}, steps, width, height),
    ]
    if on_gpu:
        parts += [run_esrgan_out_of_memory, run_flux_out_of_memory]
    if not tiny:
        parts += [flux.print_expansion, esrgan.main]
    failures = [failed(part) for part in parts]
    return int(any(failures))


def failed(part: Callable[[], object]) -> bool:
    """Run a part; whether it failed, which does not keep the others from running."""
    try:
        part()
    except Exception:  # noqa: BLE001 - told, and counted
        traceback.print_exc()
        return True
    finally:
        free_caches()
    return False


def compare_placements(config: dict[str, Any], device: torch.device) -> None:
    """The same weights give the same prediction wherever they lie; offloaded ones leave again."""
    latents = torch.randn(2, config["in_channels"] // 4, 16, 16)
    embeddings = Embeddings(
        torch.randn(1, 256, config["joint_attention_dim"]),
        torch.randn(1, config["pooled_projection_dim"]),
    )
    results = []
    for placement in _PLACEMENTS:
        transformer = random_transformer(config, device, torch.bfloat16, placement)
        # The second call of an offloaded model prefetches, the first finds out in which order.
        calls = [transformer.predict(latents, 0.4, 3.5, embeddings) for _ in range(3)]
        if device.type == "cuda":
            held = torch.cuda.memory_allocated(device) / transformer.size_bytes
            print(f"{placement}: {held:.1%} of the weights' size is held on the device")
            assert placement != "offloaded" or held < 0.25
        results += [call.cpu() for call in calls]
        del transformer, calls
        free_caches()
    for result in results:
        difference = (result - results[0]).abs().max() / results[0].abs().max()
        print(f"largest difference to expanded weights: {difference:.2e}")
        assert difference == 0 or device.type == "cuda"
        assert difference < 0.02


def run_esrgan_out_of_memory() -> None:
    """A picture whose tiles do not fit is finished in smaller ones, to the same pixels."""
    with tempfile.TemporaryDirectory() as name:
        picture = write_photograph(Path(name) / "in.png", 3000, 2000)
        model = str(bundled_weights_dir() / "compact-x4.safetensors")
        engine = EsrganEngine(Settings(model_dir=Path(name)))
        engine.start()

        def job(path: Path) -> np.ndarray:
            given = EsrganConfig(
                image_path=str(picture), output_path=str(path), model=model, tile_size=2048
            )
            engine.run(given, Surroundings())
            return pixels(path)

        whole = job(Path(name) / "whole.png")
        with_little_memory(lambda: job(Path(name) / "less.png"))
        difference = np.abs(whole.astype(int) - pixels(Path(name) / "less.png")).max()
        print(f"ESRGAN with {_LEFT_BYTES >> 20} MiB: finished; differs by {difference} at most")
        assert difference <= 1


def run_flux_out_of_memory() -> None:
    """A FLUX job whose tiles do not fit is finished in smaller ones, and says so."""
    with tempfile.TemporaryDirectory() as name:
        replica = write_replica(Path(name) / "models")
        upscaler = install_upscaler(replica.folder)
        picture = write_photograph(Path(name) / "in.png", 512, 512)
        engine = FluxEngine(Settings(model_dir=replica.folder))
        engine.start()
        output = Path(name) / "out.png"
        given = FluxConfig(
            image_path=str(picture),
            output_path=str(output),
            upscale_model=upscaler,
            steps=2,
            tile_size=2048,
        )
        engine.run(given, Surroundings())
        before = pixels(output)
        with_little_memory(lambda: engine.run(given, Surroundings()))
        print(f"FLUX with {_LEFT_BYTES >> 20} MiB: finished (a warning above says how)")
        assert pixels(output).shape == before.shape


def with_little_memory(run: Callable[[], object]) -> None:
    """Run it with so little of the GPU's memory that it has to make do."""
    free_caches()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved(0) + _LEFT_BYTES
    torch.cuda.set_per_process_memory_fraction(allowed / total, 0)
    try:
        run()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)


def pixels(path: Path) -> np.ndarray:
    """A picture's."""
    values: np.ndarray = pyvips.Image.new_from_file(str(path)).numpy()
    return values


if __name__ == "__main__":
    sys.exit(main())
