"""XMP packets, revised as text: only single numbers change, and thumbnails are removed.

Packets are untrusted, and a search in them blocks the interpreter. So each pattern matches a
bounded number of bytes, or is possessive and never backtracks.
Source: XMP specification, parts 1 and 2 (Adobe, 2012); MWG guidelines 2.0; IPTC photo metadata
2023.2; Google's photo sphere metadata (GPano); Exif 2.32 metadata for XMP.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# What follows a name: an attribute's value, name="1", or an element's, <name>1<.
_NUMBER = re.compile(rb"(?:\s*+=\s*+[\"']|>)([\d/]++)[\"'<]")
# The same for a number that may have a sign and a fraction.
_SCALABLE = re.compile(
    rb"(?:\s{0,9}+=\s{0,9}+[\"']|>)\s{0,99}+([-+]?\d{1,9}+(?:\.\d{1,20}+)?+(?:/\d{1,9}+)?+)"
    rb"\s{0,99}+[\"'<]"
)
_ITEM = re.compile(rb"(<rdf:li[^<>]{0,99}+>\s{0,99}+)(\d{1,9}+)(?=\s{0,99}+<)")
_DECLARATION = re.compile(rb"xmlns:([\w.-]{1,60}+)\s{0,9}+=\s{0,9}+[\"']([^\"'<>]{1,200}+)[\"']")
# A real packet has one declaration per namespace.
_MOST_PREFIXES = 4
# Much more than in any real packet, in which the outlines of regions are the longest lists.
_MOST_OF_A_NAME = 100_000

_GPANO = "http://ns.google.com/photos/1.0/panorama/"
_EXIF = "http://ns.adobe.com/exif/1.0/"
_DRONE = "http://www.dji.com/drone-dji/1.0/"
_REGIONS = "http://www.metadataworkinggroup.com/schemas/regions/"
_ACDSEE = "http://ns.acdsee.com/regions/"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_DIMENSIONS = "http://ns.adobe.com/xap/1.0/sType/Dimensions#"
_PAGES = "http://ns.adobe.com/xap/1.0/t/pg/"
_ACROSS, _DOWN = 0, 1
# Properties that are one number of pixels, with the axis along which it is counted.
_NUMBERS = {
    _GPANO: {
        "FullPanoWidthPixels": _ACROSS,
        "FullPanoHeightPixels": _DOWN,
        "CroppedAreaImageWidthPixels": _ACROSS,
        "CroppedAreaImageHeightPixels": _DOWN,
        "CroppedAreaLeftPixels": _ACROSS,
        "CroppedAreaTopPixels": _DOWN,
        "LargestValidInteriorRectLeft": _ACROSS,
        "LargestValidInteriorRectTop": _DOWN,
        "LargestValidInteriorRectWidth": _ACROSS,
        "LargestValidInteriorRectHeight": _DOWN,
    },
    _EXIF: {"FocalPlaneXResolution": _ACROSS, "FocalPlaneYResolution": _DOWN},
    _DRONE: {
        "CalibratedFocalLength": _ACROSS,
        "CalibratedOpticalCenterX": _ACROSS,
        "CalibratedOpticalCenterY": _DOWN,
    },
}
# Lists of numbers of pixels: across, down, across, down.
_LISTS = ((_EXIF, "SubjectArea"), (_EXIF, "SubjectLocation"))
# Structures whose fields are numbers of pixels if their unit says so.
_SIDES = {"w": _ACROSS, "h": _DOWN}
_BOUNDARY = {"rbX": _ACROSS, "rbY": _DOWN, "rbW": _ACROSS, "rbH": _DOWN, "rbRx": _ACROSS}
_STRUCTURES = (
    (_REGIONS, "AppliedToDimensions", _DIMENSIONS, _SIDES),
    (_ACDSEE, "AppliedToDimensions", _DIMENSIONS, _SIDES),
    (_PAGES, "MaxPageSize", _DIMENSIONS, _SIDES),
    (_IPTC, "RegionBoundary", _IPTC, _BOUNDARY),
)
_UNIT = b"pixel"
# Numbers of pixels within other text, or in a unit that another property states.
_UNSCALABLE = (
    (_DRONE, "DewarpData"),
    ("http://pix4d.com/camera/1.0", "VignettingCenter"),
    ("http://pix4d.com/camera/1.0/", "VignettingCenter"),
    ("http://ns.adobe.com/camera-raw-settings/1.0/", "CropWidth"),
)
# Properties that hold positions in the picture, in any unit. A crop or a turn moves them.
_PLACES = (
    *((_GPANO, name) for name in _NUMBERS[_GPANO]),
    *((_DRONE, name) for name in _NUMBERS[_DRONE]),
    *_LISTS,
    (_REGIONS, "Regions"),
    (_ACDSEE, "Regions"),
    (_IPTC, "RegionBoundary"),
    ("http://ns.microsoft.com/photo/1.2/", "RegionInfo"),
    *_UNSCALABLE[:3],
)


def revised_xmp(xmp: bytes, width: int, height: int, dpi: float | None) -> bytes:
    """The packet for the picture's new size: upright, without thumbnails, with `dpi` dots."""
    values = {
        "tiff:Orientation": "1",
        "tiff:ImageWidth": str(width),
        "tiff:ImageLength": str(height),
        "exif:PixelXDimension": str(width),
        "exif:PixelYDimension": str(height),
    }
    if dpi is not None:
        resolution = f"{round(dpi * 10_000)}/10000"
        values |= {"tiff:XResolution": resolution, "tiff:YResolution": resolution}
        values |= {"tiff:ResolutionUnit": "2"}
    for name, value in values.items():
        xmp = _with_value(xmp, name.encode(), value.encode())
    # As in EXIF, a thumbnail shows an earlier state of the picture.
    return _without(xmp, b"<xmp:Thumbnails>", b"</xmp:Thumbnails>")


def scaled_xmp(xmp: bytes, scales: tuple[float, float]) -> tuple[bytes, list[str]]:
    """The packet with its numbers of pixels times `scales`, across and down, and the names of
    those that could not be scaled."""
    left: list[str] = []
    declared = _declared(xmp)
    for space, axes in _NUMBERS.items():
        for prefix in declared.get(space, []):
            xmp = _scaled_fields(xmp, prefix, axes, scales, left)
    for space, name in _LISTS:
        for full in _names(declared, space, name):
            xmp = _scaled_list(xmp, full, scales, left)
    for space, name, field_space, axes in _STRUCTURES:
        for full in _names(declared, space, name):
            prefixes = declared.get(field_space, [])
            parts, done = [], 0
            for start, end in _elements(xmp, full, left):
                part = xmp[start:end]
                if _UNIT in part:
                    for prefix in prefixes:
                        part = _scaled_fields(part, prefix, axes, scales, left)
                parts += [xmp[done:start], part]
                done = end
            xmp = b"".join([*parts, xmp[done:]])
    left += _found(xmp, _UNSCALABLE)
    return xmp, list(dict.fromkeys(left))


def places_in_xmp(xmp: bytes) -> list[str]:
    """The names of the properties that hold positions in the picture."""
    return list(dict.fromkeys(_found(xmp, _PLACES)))


def _declared(xmp: bytes) -> dict[str, list[bytes]]:
    """The prefixes of each namespace in the packet."""
    found: dict[str, list[bytes]] = {}
    for match in _DECLARATION.finditer(xmp):
        prefixes = found.setdefault(match[2].decode("latin-1"), [])
        if match[1] not in prefixes and len(prefixes) < _MOST_PREFIXES:
            prefixes.append(match[1])
    return found


def _names(declared: dict[str, list[bytes]], space: str, name: str) -> list[bytes]:
    return [prefix + b":" + name.encode() for prefix in declared.get(space, [])]


def _found(xmp: bytes, names: tuple[tuple[str, str], ...]) -> Iterator[str]:
    declared = _declared(xmp)
    for space, name in names:
        for full in _names(declared, space, name):
            if next(_ends(xmp, full), None) is not None:
                yield full.decode("latin-1")


def _ends(xmp: bytes, name: bytes) -> Iterator[int]:
    """The offsets behind the name of an attribute or an opening element."""
    at = 0
    for _ in range(_MOST_OF_A_NAME):
        start = xmp.find(name, at)
        if start < 0:
            return
        at = start + len(name)
        if xmp[max(0, start - 1) : start] in b"< \t\r\n" and xmp[at : at + 1] in b"=> \t\r\n/":
            yield at


def _scaled_fields(
    xmp: bytes, prefix: bytes, axes: dict[str, int], scales: tuple[float, float], left: list[str]
) -> bytes:
    for name, axis in axes.items():
        full = prefix + b":" + name.encode()
        parts, done = [], 0
        for at in _ends(xmp, full):
            number = _SCALABLE.match(xmp, at)
            value = number and _scaled(number[1], scales[axis])
            if number is None or value is None:
                left.append(full.decode("latin-1"))
            else:
                parts += [xmp[done : number.start(1)], value]
                done = number.end(1)
        xmp = b"".join([*parts, xmp[done:]]) if parts else xmp
    return xmp


def _scaled_list(xmp: bytes, name: bytes, scales: tuple[float, float], left: list[str]) -> bytes:
    parts, done = [], 0
    for start, end in _elements(xmp, name, left):
        parts.append(xmp[done:start])
        done, count = start, 0
        for count, item in enumerate(_ITEM.finditer(xmp, start, end), 1):
            value = round(int(item[2]) * scales[(count - 1) % 2])
            parts += [xmp[done : item.start(2)], str(value).encode()]
            done = item.end(2)
        if count == 0:
            left.append(name.decode("latin-1"))
    return b"".join([*parts, xmp[done:]]) if parts else xmp


def _elements(xmp: bytes, name: bytes, left: list[str]) -> Iterator[tuple[int, int]]:
    """Offsets of the beginning and the end of each element, without its closing tag."""
    done = 0
    for at in _ends(xmp, name):
        start = at - len(name) - 1
        if start < done or xmp[start : start + 1] != b"<":
            continue
        end = xmp.find(b">", at)
        if end > 0 and xmp[end - 1 : end] != b"/":
            end = xmp.find(b"</" + name, end)
        if end < 0:
            left.append(name.decode("latin-1"))
            return
        done = end
        yield start, end


def _scaled(number: bytes, scale: float) -> bytes | None:
    value, _, divisor = number.partition(b"/")
    if divisor and int(divisor) == 0:
        return None
    scaled = float(value) / int(divisor or 1) * scale
    if divisor:
        return f"{round(scaled * 10_000)}/10000".encode()
    return f"{scaled:.6f}".encode() if b"." in value else str(round(scaled)).encode()


def _with_value(xmp: bytes, name: bytes, value: bytes) -> bytes:
    """The packet with `value` as each number under `name`."""
    parts, done, at = [], 0, 0
    while (start := xmp.find(name, at)) >= 0:
        at = start + len(name)
        number = _NUMBER.match(xmp, at)
        if number and not xmp[max(0, start - 1) : start].isalnum():
            parts += [xmp[done : number.start(1)], value]
            done = at = number.end(1)
    return b"".join([*parts, xmp[done:]]) if parts else xmp


def _without(xmp: bytes, opening: bytes, closing: bytes) -> bytes:
    """The packet without the text from `opening` to `closing`."""
    parts, done = [], 0
    while (start := xmp.find(opening, done)) >= 0:
        end = xmp.find(closing, start)
        if end < 0:
            break
        parts.append(xmp[done:start])
        done = end + len(closing)
    return b"".join([*parts, xmp[done:]]) if parts else xmp
