"""The operator's settings for every picture: limits, allowed files and hosts, defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from upscaled_imaging.urlaccess import url_prefix
from upscaled_protocol.choices import DEFAULT_DPI, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.flags import flag
from upscaled_protocol.optionvalues import above_zero, given_path
from upscaled_protocol.urlpolicy import UrlPolicy


@dataclass(frozen=True)
class Limits:
    """The largest pictures that are read and written.

    beside_pixels_bytes: what an input may hold beside its pixels, such as metadata and layers.
    """

    beside_pixels_bytes: int = 512 * 1024 * 1024
    max_input_megapixels: float = flag(
        "the largest input that is read (default: %(default)s)",
        above_zero,
        default=250.0,
        variable="MAX_INPUT_MEGAPIXELS",
    )
    max_output_megapixels: float = flag(
        "the largest output that is made (default: %(default)s)",
        above_zero,
        default=4000.0,
        variable="MAX_OUTPUT_MEGAPIXELS",
    )

    @property
    def max_input_bytes(self) -> int:
        """The longest input: four channels of 16 bits without compression, and the rest."""
        return int(self.max_input_megapixels * 8_000_000) + self.beside_pixels_bytes


@dataclass(frozen=True)
class Access:
    """Which files and hosts a job may name.

    roots: the folders that every path of a job must lie in; without any, all paths are allowed.
    urls: the hosts that URLs may lead to. output_dir: the folder of outputs without a path; None
    for the input's folder. url_prefixes: the beginnings of the URLs of objects, and of presigned
    URLs for outputs, that a job may name; without any, all of these are refused.
    """

    roots: tuple[Path, ...] = flag(
        "confine every path of a job to DIR; may be repeated",
        lambda text: given_path(text).resolve(),
        default=(),
        name="allow-root",
        metavar="DIR",
        collect=tuple,
    )
    urls: UrlPolicy = field(default_factory=UrlPolicy)
    url_prefixes: tuple[str, ...] = flag(
        "let image_url and output_url use objects below PREFIX (s3://bucket/folder/, gs://, "
        "az://), and output_url presigned URLs below it (https://host/); may be repeated",
        url_prefix,
        default=(),
        name="allow-url",
        metavar="PREFIX",
        collect=tuple,
    )
    output_dir: Path | None = flag(
        "for outputs without a path (default: OUTPUT_DIR, else the input's folder)",
        given_path,
        default=None,
        variable="OUTPUT_DIR",
    )


@dataclass(frozen=True)
class Defaults:
    """The factor and the dots per inch of jobs whose config has none."""

    factor: float = DEFAULT_UPSCALE_FACTOR
    dpi: int = DEFAULT_DPI


@dataclass(frozen=True)
class PictureSettings:
    """The part of the worker's settings that concerns pictures."""

    limits: Limits = field(default_factory=Limits)
    access: Access = field(default_factory=Access)
    defaults: Defaults = field(default_factory=Defaults)
