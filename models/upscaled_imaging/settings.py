"""What the operator sets for every picture: its limits, where files may lie, and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from upscaled_protocol.configs import DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.destinations import Destinations


@dataclass(frozen=True)
class Limits:
    """The largest pictures that are read and written."""

    max_input_bytes: int = 512 * 1024 * 1024
    max_input_megapixels: float = 250.0
    max_output_megapixels: float = 4000.0


@dataclass(frozen=True)
class Access:
    """Which files and hosts a job may name.

    roots: the folders that every path of a job must lie in; none allows all. urls: the hosts that
    URLs may lead to. output_dir: the folder of outputs without a path; None for the input's own.
    """

    roots: tuple[Path, ...] = ()
    urls: Destinations = field(default_factory=Destinations)
    output_dir: Path | None = None


@dataclass(frozen=True)
class Defaults:
    """What a job's size goes by if its config does not say: a factor, and dots per inch."""

    factor: float = DEFAULT_UPSCALE_FACTOR
    dpi: int = DEFAULT_DPI


@dataclass(frozen=True)
class PictureSettings:
    """How the operator runs this worker, as far as pictures are concerned."""

    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    defaults: Defaults = field(default_factory=Defaults)
