"""What an output file costs: processor time and size of our PNG and TIFF, beside other writers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyvips
import skimage.data
from PIL import Image

from upscaled_bench.table import print_table
from upscaled_imaging.destinations import FileDestination
from upscaled_imaging.dimensions import Plan
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.output import Output
from upscaled_imaging.resample import resample
from upscaled_imaging.write import open_sink
from upscaled_protocol.choices import OutputFormat
from upscaled_protocol.messages import Size

_ROUNDS = 5
# The size of a usual network's output: 640x448 pixels, four times as large.
_WIDTH, _HEIGHT = 2560, 1792
_BAND_ROWS = 64


def _upscaled_photograph() -> np.ndarray:
    """A photograph, enlarged, with the little noise that networks leave."""
    photograph = skimage.data.coffee()  # type: ignore[no-untyped-call]
    small = Image.fromarray(photograph).resize((_WIDTH // 4, _HEIGHT // 4))
    large = np.asarray(small.resize((_WIDTH, _HEIGHT), Image.Resampling.LANCZOS)).astype(int)
    noise = np.random.default_rng(0).normal(0, 1, large.shape)
    return np.clip(np.rint(large + noise), 0, 255).astype(np.uint8)


def _by_sink(pixels: np.ndarray, folder: Path, kind: OutputFormat) -> int:
    size = Size(width=_WIDTH, height=_HEIGHT)
    path = folder / f"out.{kind}"
    output = Output(FileDestination(path), kind, None, Plan(4.0, size, size), Metadata())
    with open_sink(output, size, 3, 8) as sink:
        for top in range(0, _HEIGHT, _BAND_ROWS):
            sink.write(pixels[top : top + _BAND_ROWS])
        sink.commit()
    return path.stat().st_size


def _by_libvips(pixels: np.ndarray, kind: str, **options: object) -> int:
    image = pyvips.Image.new_from_array(pixels)
    return len(getattr(image, f"{kind}save_buffer")(**options))


def _by_pillow(pixels: np.ndarray, **options: int) -> int:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.tell()


def _resampled(pixels: np.ndarray, width: int, height: int) -> int:
    bands = (pixels[top : top + _BAND_ROWS] for top in range(0, _HEIGHT, _BAND_ROWS))
    source, target = (_WIDTH, _HEIGHT), (width, height)
    return sum(rows.nbytes for rows in resample(bands, source=source, target=target, bits=8))


def _resampled_by_libvips(pixels: np.ndarray, scale: float) -> int:
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
    done = image.colourspace("scrgb").resize(scale, kernel="lanczos3").colourspace("srgb")
    return len(done.write_to_memory())


def _measured(work: Callable[[], int]) -> tuple[float, int]:
    best = float("inf")
    for _ in range(_ROUNDS):
        start = time.process_time()
        size = work()
        best = min(best, time.process_time() - start)
    return best, size


def _print(title: str, subjects: dict[str, Callable[[], int]]) -> None:
    found = {name: _measured(work) for name, work in subjects.items()}
    base, _ = next(iter(found.values()))
    print_table(
        title,
        ["", "processor time", "of ours", "bytes"],
        [
            [name, f"{seconds * 1e3:.0f} ms", f"{seconds / base:.1f}x", f"{size / 1e6:.2f} MB"]
            for name, (seconds, size) in found.items()
        ],
    )


def main() -> None:
    """Print a table for each format, and one for the resampler."""
    pixels = _upscaled_photograph()
    with TemporaryDirectory() as name:
        folder = Path(name)
        _print(
            f"PNG, {_WIDTH}x{_HEIGHT}, 8 bits",
            {
                "ours (ISA-L 1, up)": lambda: _by_sink(pixels, folder, "png"),
                "libvips 1, up": lambda: _by_libvips(pixels, "png", compression=1, filter="up"),
                "libvips 3, sub": lambda: _by_libvips(pixels, "png", compression=3, filter="sub"),
                "libvips 6": lambda: _by_libvips(pixels, "png"),
                "Pillow 1": lambda: _by_pillow(pixels, compress_level=1),
                "Pillow 6": lambda: _by_pillow(pixels),
            },
        )
        deflate = {"compression": "deflate", "predictor": "horizontal"}
        _print(
            f"TIFF, {_WIDTH}x{_HEIGHT}, 8 bits",
            {
                "ours (ISA-L 1)": lambda: _by_sink(pixels, folder, "tiff"),
                "libvips deflate": lambda: _by_libvips(pixels, "tiff", **deflate),
                "libvips LZW": lambda: _by_libvips(
                    pixels, "tiff", compression="lzw", predictor="horizontal"
                ),
            },
        )
        _print(
            f"Lossy formats at their default quality, {_WIDTH}x{_HEIGHT}",
            {
                "JPEG": lambda: _by_sink(pixels, folder, "jpeg"),
                "WebP": lambda: _by_sink(pixels, folder, "webp"),
                "AVIF": lambda: _by_sink(pixels, folder, "avif"),
            },
        )
    _print(
        f"Resampling {_WIDTH}x{_HEIGHT} to 0.625 of it, in linear light",
        {
            "ours": lambda: _resampled(pixels, _WIDTH * 5 // 8, _HEIGHT * 5 // 8),
            "libvips lanczos3": lambda: _resampled_by_libvips(pixels, 0.625),
        },
    )
