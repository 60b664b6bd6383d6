"""One transformer loaded in a process of its own:
`python -m upscaled_bench.flux_loading MODEL_DIR GGUF stored|expanded`.

Prints as JSON the seconds that it took, and what the host's memory grew by at its peak. Without a
GPU the weights go to torch's `meta` device, as they would to a GPU's memory: they leave the host's.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import orjson
import torch

from upscaled_bench.one_job import peak_bytes
from upscaled_models.flux.files import Files
from upscaled_models.flux.transformer import check_transformer, load_transformer


def main() -> None:
    """Load what the command line names."""
    folder, gguf, placement = sys.argv[1:]
    nowhere = Path("nowhere")
    files = replace(Files(Path(folder), *[nowhere] * 6), transformer=Path(gguf))
    device = torch.device("cuda" if torch.cuda.is_available() else "meta")
    torch.zeros(1, device=device)  # what a device takes of the host once
    check_transformer(files)  # and what the libraries do
    Path("/proc/self/clear_refs").write_text("5")  # the peak is that from here on
    before, start = peak_bytes(), time.perf_counter()
    load_transformer(files, device, torch.bfloat16, placement, lambda *_: None)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    told = {"seconds": seconds, "peak_bytes": peak_bytes() - before}
    sys.stdout.buffer.write(orjson.dumps(told))


if __name__ == "__main__":
    main()
