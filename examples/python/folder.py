"""Every picture of a folder, twice as large: `python examples/python/folder.py IN OUT`."""

import sys
from concurrent.futures import as_completed
from pathlib import Path

import upscaled

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def main(source: Path, target: Path) -> int:
    """Upscale them all; 1 if some failed."""
    target.mkdir(parents=True, exist_ok=True)
    pictures = [path for path in sorted(source.iterdir()) if path.suffix.lower() in SUFFIXES]
    failed = 0
    with upscaled.Upscaler() as up:
        calls = {up.submit(one, target / f"{one.stem}.png", factor=2): one for one in pictures}
        for call in as_completed(calls):
            try:
                size = call.result().output_size
                print(f"{calls[call].name}: {size.width}x{size.height}")
            except upscaled.UpscaledError as error:
                failed += 1
                print(f"{calls[call].name}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
