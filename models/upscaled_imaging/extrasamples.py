"""The channels of a TIFF behind its colours: transparency, a saved selection, a spot ink.

libvips takes the first of them for transparency, also if it is something else. It rounds down when
it divides by alpha, and takes the alpha of 16-bit CMYK for an 8-bit one. So premultiplied colours
are hidden from libvips, and divided here.
Source: TIFF 6.0 (Adobe, 1992), section 18, ExtraSamples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pyvips

from upscaled_imaging import formats
from upscaled_imaging.colour import straight
from upscaled_imaging.origin import Origin
from upscaled_imaging.tags import Entry, Reader
from upscaled_imaging.tiffkind import tile_failures
from upscaled_imaging.tiffplanes import load_planes

_COLOURS, _SAMPLES, _PLANES, _INK_SET, _EXTRA_SAMPLES = 262, 277, 284, 332, 338
_ASSOCIATED, _UNASSOCIATED = 1, 2
_WHITE_IS_ZERO, _YCBCR = 0, 6
_SEPARATE = 2
_CMYK = 1
# Number of colour channels by photometric interpretation: gray (two polarities), RGB, CMYK, YCbCr.
_CHANNELS = {_WHITE_IS_ZERO: 1, 1: 1, 2: 3, 5: 4, _YCBCR: 3}
# libvips' names for 8 and for 16 bits per channel.
_NAMES = {1: ("b-w", "grey16"), 3: ("srgb", "rgb16"), 4: ("cmyk", "cmyk")}


class _Layout(NamedTuple):
    """`colours` colour channels, and the ExtraSamples value of each channel behind them.

    are_apart: the channels are stored one after the other. as_straight: the bytes, by offset, of an
    ExtraSamples tag that declares all extra channels as straight alpha.
    """

    photometric: int
    colours: int
    extras: tuple[int, ...]
    are_apart: bool
    as_straight: dict[int, bytes]

    @property
    def alpha(self) -> int | None:
        """The band that is transparency: the first one that is declared as alpha."""
        for band, kind in enumerate(self.extras, self.colours):
            if kind in (_ASSOCIATED, _UNASSOCIATED):
                return band
        return None


def load_tiff(
    origin: Origin, check_size: Callable[[int, int], None], warn: Callable[[str], None]
) -> pyvips.Image:
    """The first picture of a TIFF: its colours, and straight alpha if it has transparency.

    Other extra channels are left out with a warning. Raises `JobError` (input_unreadable) and what
    `check_size` raises.
    """
    image = _colours_and_alpha(origin, warn)
    check_size(image.width, image.height)
    return image


def _colours_and_alpha(origin: Origin, warn: Callable[[str], None]) -> pyvips.Image:
    layout = _layout(origin.read_at)
    if layout is None:
        return formats.load("tiff", origin.source, tile_failures(origin.read_at))
    samples, alpha = layout.colours + len(layout.extras), layout.alpha
    wanted = [*range(layout.colours), *([] if alpha is None else [alpha])]
    is_multiplied = alpha is not None and layout.extras[alpha - layout.colours] == _ASSOCIATED
    if layout.are_apart:
        image = load_planes(origin, layout.photometric, samples, wanted)
    else:
        image = _load_together(origin, layout, is_multiplied=is_multiplied)
        if image.bands != samples:
            return image  # libvips has converted the colours
        if len(wanted) < samples:
            bands = [image.extract_band(band) for band in wanted]
            image = bands[0].bandjoin(bands[1:]) if len(bands) > 1 else bands[0]
    image = image.copy(interpretation=_NAMES[layout.colours][image.format == "ushort"])
    if len(wanted) < samples:
        warn(_left_out(samples - len(wanted)))
    if not is_multiplied:
        return image
    if layout.photometric == _WHITE_IS_ZERO:  # libvips has inverted it
        return _negative(straight(_negative(image)))
    return straight(image)


def _load_together(origin: Origin, layout: _Layout, *, is_multiplied: bool) -> pyvips.Image:
    source = origin.changed(layout.as_straight) if is_multiplied else origin.source
    return formats.load("tiff", source, tile_failures(origin.read_at))


def _layout(read_at: Callable[[int, int], bytes]) -> _Layout | None:
    """None if libvips can read the file as it is: no extra channels, and none stored apart."""
    try:
        reader = Reader(read_at)
        entries = {entry.number: entry for entry in reader.entries(reader.first)[0]}
        photometric = reader.integer(entries[_COLOURS])
        colours = _CHANNELS[photometric]
        samples = reader.integer(entries[_SAMPLES]) if _SAMPLES in entries else colours
        planes = reader.integer(entries[_PLANES]) if _PLANES in entries else 1
        inks = reader.integer(entries[_INK_SET]) if _INK_SET in entries else _CMYK
        kinds, as_straight = _declared_kinds(reader, entries.get(_EXTRA_SAMPLES), samples)
    except (ValueError, KeyError):
        return None
    count = samples - colours
    are_apart = planes == _SEPARATE and photometric != _YCBCR
    if count < 0 or not (count or are_apart) or inks != _CMYK:
        return None
    # The tag describes the last channels. Channels without a value come before them.
    extras = ((0,) * count + kinds)[-count:] if count else ()
    return _Layout(photometric, colours, extras, are_apart, as_straight)


def _declared_kinds(
    reader: Reader, entry: Entry | None, most: int
) -> tuple[tuple[int, ...], dict[int, bytes]]:
    if entry is None or entry.values > most:
        return (), {}
    try:
        kinds = tuple(reader.integers(entry, most))
    except ValueError:  # no channel is declared as alpha
        return (), {}
    return kinds, {entry.place: reader.packed_integers(entry, _UNASSOCIATED)}


def _negative(image: pyvips.Image) -> pyvips.Image:
    alpha = image.bands - 1
    gray = image.extract_band(0, n=alpha).invert()
    return gray.bandjoin(image.extract_band(alpha)).copy(interpretation=image.interpretation)


def _left_out(count: int) -> str:
    if count == 1:
        return (
            "the input has a channel that is no transparency, such as a saved selection or a spot "
            "ink: it was left out"
        )
    return (
        f"the input has {count} channels that are no transparency, such as saved selections or "
        "spot inks: they were left out"
    )
