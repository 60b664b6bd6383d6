"""What the benchmarks measure without a GPU, and that the script for one runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
from upscaled_bench.flux import load_apart, write_config
from upscaled_bench.flux_random import RandomFile, published_config

_GPU_SCRIPT = Path(__file__).parents[2] / "gpu" / "measure.py"


@pytest.mark.parametrize("placement", ["stored", pytest.param("expanded", marks=pytest.mark.long)])
def test_loading_takes_the_host_s_memory_for_one_tensor_and_not_for_the_file(
    placement: str, tmp_path: Path
) -> None:
    heads = {"num_layers": 2, "num_single_layers": 4, "num_attention_heads": 8}
    config = published_config() | heads
    file = tmp_path / "random.gguf"
    random = RandomFile(config)
    random.write(file)
    write_config(tmp_path, config)
    largest = max(entry.size_bytes for entry in random.entries.values())
    assert 15 * largest < file.stat().st_size
    # Twice, because the next one is read before Python has freed the one before.
    assert load_apart(tmp_path, file, placement)["peak_bytes"] < 2 * largest + 8_000_000


@pytest.mark.long
def test_the_script_for_a_gpu_runs_small_on_a_processor(tmp_path: Path) -> None:
    kept = tmp_path / "results.json"
    told = subprocess.run(
        [sys.executable, _GPU_SCRIPT, "--tiny", "--json", kept],
        check=False,
        capture_output=True,
        text=True,
        timeout=230,
    )
    assert told.returncode == 0, told.stderr
    assert "largest difference to expanded weights: 0" in told.stdout
    assert "a job on a replica" in told.stdout
    results = orjson.loads(kept.read_bytes())
    (network,) = results["networks, 40x32"]
    assert network["job"]["parts_s"]["network"] > 0
    assert network["ours_of_torch"] > 0
    assert results["flux steps"]["step_s_per_tile"] > 0
    assert "skipped" not in results
    assert "failed" not in results
