"""A worker does not import those large parts of torch that it does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tiny_networks import save, swinir
from upscaled_models import torchparts

# All of torch is imported, which on a busy machine may take half a minute.
TIMEOUT_S = 200

WORKER = """
import sys
from upscaled_worker.__main__ import main
status = main(["--methods", "esrgan"])
unused = {"torch._dynamo", "torch._dynamo.utils", "torch.distributed.tensor", "sympy"}
print("imported:", *{"torch", *unused} & {*sys.modules}, file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.filterwarnings("ignore:torch.meshgrid")  # SwinIR's own
def test_a_worker_has_not_imported_torchs_compiler_after_jobs_by_rows_and_in_tiles(
    tmp_path: Path,
) -> None:
    image_path = tmp_path / "in.png"
    # Wider than what is computed in one piece, so that a network in tiles is probed.
    Image.effect_noise((300, 16), 64).convert("RGB").save(image_path)
    models = ("compact-x4", str(save(swinir(), tmp_path / "swinir.safetensors")))
    jobs = [
        {
            "job_id": f"{number}",
            "method": "esrgan",
            "config": {
                "image_path": str(image_path),
                "output_path": str(tmp_path / f"{number}.png"),
                "model": model,
            },
        }
        for number, model in enumerate(models)
    ]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WORKER],
        input="".join(json.dumps(job) + "\n" for job in jobs),
        capture_output=True,
        check=True,
        timeout=TIMEOUT_S,
        text=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["status"] for line in lines if "status" in line].count("completed") == 2
    assert "imported: torch\n" in done.stderr


def test_an_import_from_the_compiler_imports_it_when_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "def is_compile_supported(device_type):\n    return device_type\n\nsteps = [1]\n"
    (tmp_path / "the_compiler.py").write_text(text, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torchparts, "_COMPILER", "the_compiler")
    with torchparts.compiler_on_demand():
        from the_compiler import is_compile_supported  # type: ignore[import-not-found]
    assert "the_compiler" not in sys.modules
    assert is_compile_supported("cpu") == "cpu"
    assert "the_compiler" in sys.modules
    monkeypatch.delitem(sys.modules, "the_compiler")
    with torchparts.compiler_on_demand():
        from the_compiler import steps
    assert steps == [1]
    monkeypatch.delitem(sys.modules, "the_compiler")
