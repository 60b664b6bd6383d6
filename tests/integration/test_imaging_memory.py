"""Memory does not grow with a picture's height: peaks of processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import pyvips

TIMEOUT_S = 600
# The job: repeat each pixel, through the whole path, and print the peak of resident memory.
JOB = """
import sys
from pathlib import Path
from typing import Any

from upscaled_imaging.dimensions import plan_size
from upscaled_models.engine import Settings
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import open_source
from upscaled_imaging.write import open_sink
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.messages import Size


class Context:
    job_id, attempt, accepted_as = "job-1", 1, None

    def progress(self, percent: float, stage: str, *, budget_s: float, tail_s: float) -> None: ...

    def warn(self, text: str) -> None: ...

    def check_cancelled(self) -> None: ...


path, output, times, factor = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
config, context = EsrganConfig(image_path=path, output_path=output), Context()
settings = Settings(model_dir=Path())
with open_source(config, settings, context) as source:
    size = Size(width=source.width, height=source.height)
    plan = plan_size(config, size, factor=factor, default_dpi=150)
    planned = plan_output(config, settings, source, plan, method="esrgan", context=context)
    native = Size(width=times * source.width, height=times * source.height)
    with open_sink(planned, native, source.bands, source.bits) as sink:
        while source.rows_left:
            sink.write(source.rows(64).repeat(times, axis=0).repeat(times, axis=1))
        sink.commit()
# Not `ru_maxrss`: that begins with what the process had taken that this one was forked from.
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")))
"""


def peak_bytes(path: Path, output: Path, *, factor: float = 4.0) -> int:
    done = subprocess.run(
        [sys.executable, "-c", JOB, path, output, "4", str(factor)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def picture(folder: Path, width: int, height: int, *, alpha: bool = False) -> Path:
    """Noise, which compresses badly, with see-through stripes where it has alpha."""
    image = pyvips.Image.gaussnoise(width, height, mean=128, sigma=20).bandjoin([90, 40])
    if alpha:
        image = image.bandjoin(pyvips.Image.xyz(width, height)[1] % 250)
    path = folder / f"{width}x{height}-{alpha}.png"
    image.cast("uchar").copy(interpretation="srgb").pngsave(str(path), compression=1)
    return path


@pytest.mark.parametrize(
    ("suffix", "alpha", "factor"),
    [
        ("png", False, 4.0),
        ("png", True, 4.0),
        ("png", False, 2.5),
        ("tif", False, 4.0),
        ("jpg", False, 4.0),
    ],
)
def test_a_tall_picture_takes_hardly_more_than_a_low_one(
    tmp_path: Path, suffix: str, alpha: bool, factor: float
) -> None:
    low, tall = (picture(tmp_path, 500, height, alpha=alpha) for height in (1500, 6000))
    output = tmp_path / f"out.{suffix}"
    growth = peak_bytes(tall, output, factor=factor) - peak_bytes(low, output, factor=factor)
    # How full the queue gets depends on chance. Held whole, the picture would be 40 MiB more at
    # the least, and 100 where nothing makes it smaller.
    assert growth <= 30 * 2**20


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_four_hundred_megapixels_take_hardly_more_than_sixteen(tmp_path: Path) -> None:
    low, tall = (picture(tmp_path, 2000, height) for height in (500, 12_500))
    assert peak_bytes(tall, tmp_path / "a.png") <= 1.25 * peak_bytes(low, tmp_path / "b.png")


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
def test_a_gigapixel_stays_far_under_two_gigabytes(tmp_path: Path) -> None:
    assert peak_bytes(picture(tmp_path, 8000, 8000), tmp_path / "out.png") < 512 * 2**20
