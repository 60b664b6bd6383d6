"""Photographs under free licences: fetched from Debian, checked, and cut into squares.

Only photographs whose licence lets anyone use them for any purpose are taken: CC0 and CC-BY. The
package's own copyright file is read for each of them; a photograph that it does not name under the
licence given here is refused.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGE = "lomiri-wallpapers-16.04"
_PICTURES = Path("usr/share/backgrounds")
_COPYRIGHT = Path("usr/share/doc") / PACKAGE / "copyright"


@dataclass(frozen=True)
class Photograph:
    """One photograph of the package, with what its licence asks to be said."""

    file: str
    author: str
    licence: str
    sha256: str


PHOTOGRAPHS = (
    Photograph(
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36",
    ),
    Photograph(
        "friends_by_Aitzol_Berasategi.jpg",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d",
    ),
    Photograph(
        "life_by_Aitzol_Berasategi.jpg",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05",
    ),
    Photograph(
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a",
    ),
    Photograph(
        "sunset_by_Aitzol_Berasategi.jpg",
        "Aitzol Berasategi",
        "CC-BY-4.0",
        "474dab6a4b9f94dc76c29dfe30e9f5db4af0fd2e33fe5d695f8152b371efca18",
    ),
    Photograph(
        "Picture_0B_by_freespace.jpg",
        'Trevor "Freespace"',
        "CC-BY-4.0",
        "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad",
    ),
    Photograph(
        "Picture_1A_by_freespace.jpg",
        'Trevor "Freespace"',
        "CC-BY-4.0",
        "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b",
    ),
    Photograph(
        "Wine_by_Jakkub_Mede.jpg",
        "Jakub Mede",
        "CC-BY-4.0",
        "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74",
    ),
    Photograph(
        "seeding_by_Clements_Engelhardt.jpg",
        "Clemens Engelhardt",
        "CC0-1.0",
        "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f",
    ),
)

SHORT_SIDES = (1536, 1024, 768)
"""Every photograph is used at these sizes, by its short side in pixels. Cameras are soft at the
pixels' own size, and a JPEG's blocks vanish when it is reduced; what people enlarge is of this
size."""


def fetch_photographs(folder: Path) -> list[Path]:
    """The files of `PHOTOGRAPHS`, in their order, downloaded with apt below `folder` if missing.

    Raises ValueError if a file is not the known one, or if its licence is not the known one.
    """
    unpacked = folder / PACKAGE
    if not (unpacked / _COPYRIGHT).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _run(folder, "apt-get", "download", PACKAGE)
        (package,) = folder.glob(f"{PACKAGE}_*.deb")
        _run(folder, "dpkg-deb", "-x", package.name, PACKAGE)
        package.unlink()
    licences = _licences((unpacked / _COPYRIGHT).read_text(encoding="utf-8"))
    print(f"the licences of the photographs are in {unpacked / _COPYRIGHT}", flush=True)
    paths = []
    for photograph in PHOTOGRAPHS:
        found = licences.get(photograph.file)
        if found != photograph.licence:
            raise ValueError(
                f"{photograph.file} is under {found}, not {photograph.licence}: do not use it"
            )
        path = unpacked / _PICTURES / photograph.file
        if hashlib.sha256(path.read_bytes()).hexdigest() != photograph.sha256:
            raise ValueError(f"{path} is another picture than the recipe's: use Debian 12's")
        print(f"{photograph.file}: {photograph.author}, {photograph.licence}", flush=True)
        paths.append(path)
    return paths


def cut_squares(path: Path, side: int) -> Iterator[NDArray[np.uint8]]:
    """Squares (side, side, 3) that cover the photograph at each of `SHORT_SIDES`."""
    with Image.open(path) as opened:
        photograph = opened.convert("RGB")
    for short_side in SHORT_SIDES:
        ratio = short_side / min(photograph.size)
        if ratio > 1.0 or short_side < side:
            continue
        width, height = (round(length * ratio) for length in photograph.size)
        pixels = np.asarray(photograph.resize((width, height), Image.Resampling.LANCZOS))
        for top in _starts(height, side):
            for left in _starts(width, side):
                yield pixels[top : top + side, left : left + side]


def _run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True)


def _starts(length: int, side: int) -> list[int]:
    """Offsets of squares that cover `length`. They overlap if it is no multiple of `side`."""
    count = -(-length // side)
    return [round(index * (length - side) / max(count - 1, 1)) for index in range(count)]


def _licences(text: str) -> dict[str, str]:
    """Each file that a Debian copyright file names alone, and its licence."""
    licences = {}
    for paragraph in text.split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if "Files" in fields and "License" in fields:
            licences[Path(fields["Files"]).name] = fields["License"]
    return licences
