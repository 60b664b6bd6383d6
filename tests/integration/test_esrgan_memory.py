"""Memory does not grow with a picture's height, measured in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips

from tiny_networks import compact, rrdb, save
from upscaled_models.catalog import bundled_weights_dir

MIB = 2**20


# `one_job` with so many bytes for tiles.
LIMITED = """
import sys
from upscaled_bench import one_job
from upscaled_models.esrgan.networks import Networks
limit_bytes = int(sys.argv.pop(1))
Networks._memory_for_tiles = lambda _: limit_bytes
one_job.main()
"""


def peak_bytes(
    folder: Path,
    model: Path,
    width: int,
    height: int,
    timeout_s: float = 200,
    limit_bytes: int | None = None,
) -> int:
    """The most memory resident in a process that makes one picture four times as large.

    limit_bytes: what tiles may take.
    """
    source, output = folder / f"in{height}.png", folder / f"out{height}.png"
    noise = np.random.default_rng(0).integers(0, 255, (100, width, 3), np.uint8)
    tile = pyvips.Image.new_from_array(noise)
    tile.replicate(1, -(-height // 100)).crop(0, 0, width, height).write_to_file(str(source))
    started = ["-m", "upscaled_bench.one_job"]
    if limit_bytes is not None:
        started = ["-c", LIMITED, str(limit_bytes)]
    command = [sys.executable, *started, *map(str, (model, source, output))]
    done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr.decode()
    written = pyvips.Image.new_from_file(str(output))
    assert (written.width, written.height) == (4 * width, 4 * height)
    output.unlink()
    return int(json.loads(done.stdout)["peak_bytes"])


def test_a_picture_nine_times_as_high_takes_no_more_memory(tmp_path: Path) -> None:
    model = save(compact(features=4, convolutions=1), tmp_path / "tiny.safetensors")
    low = peak_bytes(tmp_path, model, 800, 1000)
    high = peak_bytes(tmp_path, model, 800, 9000)
    # The output alone has 293 MiB more. How many bands wait between the threads is chance: up to
    # 130 MiB of them were seen.
    assert high < low + 200 * MIB


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_picture_of_400_megapixels_takes_a_quarter_more_at_most(tmp_path: Path) -> None:
    model = bundled_weights_dir() / "compact-x4.safetensors"
    low = peak_bytes(tmp_path, model, 2000, 500)
    high = peak_bytes(tmp_path, model, 2000, 12_500, timeout_s=900)
    assert high <= 1.25 * low


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_gigapixel_takes_less_than_two_gigabytes(tmp_path: Path) -> None:
    model = bundled_weights_dir() / "compact-x4.safetensors"
    assert peak_bytes(tmp_path, model, 7906, 7906, timeout_s=3000) < 2 * 2**30


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("limit_mib", [700, 2000], ids=["in tiles", "by rows"])
def test_30_000_columns_take_no_more_memory_than_they_may(tmp_path: Path, limit_mib: int) -> None:
    model = save(rrdb(features=32, blocks=2), tmp_path / "rrdb.safetensors")
    limit_bytes = limit_mib * MIB
    small = peak_bytes(tmp_path, model, 64, 16)
    wide = peak_bytes(tmp_path, model, 30_000, 17, timeout_s=1500, limit_bytes=limit_bytes)
    # Beside tiles there are the picture's rows on their way to the encoder, and kernels' scratch.
    assert wide <= small + limit_bytes + 200 * MIB
