"""Which kind of file it is, by its first bytes: the pictures that are read, and those that are not.

Light: it imports no libvips, NumPy or torch, so that a command can sort a whole folder with it. The
suffix of a file is ignored. Every pattern is anchored and takes linear time.
Source: the formats' own specifications; the `magic` database of file(1) for rare kinds.
"""

from __future__ import annotations

import re
import zlib
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from upscaled_imaging.textkinds import is_svg, text_kind
from upscaled_protocol.errors import ErrorCode, JobError

# The bytes that are enough to recognise a kind: a licence may precede an SVG's first element.
HEAD_BYTES = 16 * 1024
# The offset at which the brands of a HEIF end; behind it the same letters mean nothing.
_BRANDS_END = 512

_READ = {
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"RIFF....WEBP",
    "tiff": rb"II[*+]\0|MM\0[*+]",
    "avif": rb"....ftyp(avif|avis|(mif1|miaf|msf1).*avif)",
    "gif": rb"GIF8[79]a",
    # The length of its second header distinguishes it from a text that begins with BM.
    "bmp": rb"BM............[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0",
}
# Files with these suffixes are meant to be pictures.
_SUFFIXES = {
    "png": (".png",),
    "jpeg": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "webp": (".webp",),
    "tiff": (".tif", ".tiff"),
    "avif": (".avif",),
    "gif": (".gif",),
    "bmp": (".bmp", ".dib"),
    "tga": (".tga",),
    "heic": (".heic", ".heif", ".hif"),
    "jxl": (".jxl",),
}
_OR_CONVERT = "convert it to PNG, JPEG, WebP, TIFF or AVIF"
_CONVERT = f"which is not read here: {_OR_CONVERT}"
_DEVELOP = "which is not read here: develop it in a raw converter, and send its TIFF or JPEG"
_EXPORT = "which is not read here: export it as PNG or TIFF, in the size that you want"
_FRAMES = "no picture: send its frames as separate pictures"
_UNPACK = "no picture: unpack it, and send the pictures that are inside"
_NO_PICTURE = "no picture: send PNG, JPEG, WebP, TIFF or AVIF"
_SIDECAR = "no picture: it belongs to the file of the same name without ._, so send that"


class _Extra(NamedTuple):
    """A kind that is read if one of upscaled's extras is installed.

    title: its usual name. module: a module that the extra installs.
    """

    title: str
    pattern: bytes
    module: str
    extra: str

    @property
    def is_installed(self) -> bool:
        return _is_installed(self.module)

    @property
    def advice(self) -> str:
        return (
            "which needs a package that is not installed: run "
            f"`pip install 'upscaled[{self.extra}]'`, or {_OR_CONVERT}"
        )


_EXTRAS = {
    "heic": _Extra("HEIC", rb"....ftyp(hei|hev|mif1|miaf|msf1)", "pillow_heif", "heic"),
    "jxl": _Extra("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL ", "OpenImageIO", "jxl"),
}
# In this order: the first pattern that matches decides.
_OTHERS: tuple[tuple[str, dict[str, bytes]], ...] = (
    (
        _DEVELOP,
        {
            "a Canon camera raw file (CR2)": rb"II[*]\0....CR",
            "a Canon camera raw file (CR3)": rb"....ftypcrx ",
            "a Canon camera raw file (CRW)": rb"II\x1a\0\0\0HEAPCCDR",
            "a Phase One camera raw file (IIQ)": rb"(II[*]\0|MM\0[*])....(IIII|MMMM)",
            "a Fujifilm camera raw file (RAF)": rb"FUJIFILMCCD-RAW",
            "an Olympus camera raw file (ORF)": rb"IIR[OS]|MMOR",
            "a Panasonic camera raw file (RW2)": rb"IIU\0",
            "a Minolta camera raw file (MRW)": rb"\0MRM",
            "a Sigma camera raw file (X3F)": rb"FOVb",
        },
    ),
    (
        _CONVERT,
        {
            "a HEIF of H.264, H.266 or JPEG 2000": rb"....ftyp(avci|avcs|vvi|j2ki|j2is)",
            "a BMP of OS/2": rb"BM............\x10\0\0\0|BA....\0\0\0\0",
            "PSD": rb"8BPS",
            "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
            "JPEG XR": rb"II\xbc",
            "OpenEXR": rb"\x76\x2f\x31\x01",
            "Radiance HDR": rb"#\?(RADIANCE|RGBE)",
            "ICO": rb"\0\0\x01\0",
            "a Windows cursor": rb"\0\0\x02\0[^\0]\0",
            "ICNS": rb"icns",
            "PNM": rb"P[1-7]\s",
            "PFM": rb"P[Ff]4?\s",
            "QOI": rb"qoif",
            "DDS": rb"DDS ",
            "SGI": rb"\x01\xda[\0\x01][\x01\x02]",
            "PCX": rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08]",
            "DCX": rb"\xb1\x68\xde\x3a",
            "a Sun raster": rb"\x59\xa6\x6a\x95",
            "DPX": rb"SDPX|XPDS",
            "Cineon": rb"\x80\x2a\x5f\xd7",
            "FITS": rb"SIMPLE  =",
            "XCF (GIMP)": rb"gimp xcf",
            "MNG": rb"\x8aMNG\r\n\x1a\n",
            "JNG": rb"\x8bJNG\r\n\x1a\n",
            "FLIF": rb"FLIF",
            "BPG": rb"BPG\xfb",
            "KTX": rb"\xabKTX ",
            "PVR": rb"PVR\x03",
            "ASTC": rb"\x13\xab\xa1\x5c",
            "Basis Universal": rb"sB\x13\0",
            "IFF (ILBM)": rb"FORM....(ILBM|PBM |ACBM|DEEP|RGB8)",
            "Maya IFF": rb"FOR4....CIMG",
            "farbfeld": rb"farbfeld",
            "MIFF": rb"id=ImageMagick",
            "PICT": rb"(.{512})?.{10}\0\x11\x02\xff\x0c\0",
            "PSP": rb"Paint Shop Pro Image",
            "Krita": rb"PK\x03\x04.{26}mimetypeapplication/x-krita",
            "OpenRaster": rb"PK\x03\x04.{26}mimetypeimage/openraster",
            "Clip Studio Paint": rb"CSFCHUNK",
            "Affinity": rb"\0\xffKA",
            "a GIMP pattern or brush": rb".{20}(GPAT|GIMP)",
            "Softimage PIC": rb"\x53\x80\xf6\x34",
            "JBIG2": rb"\x97JB2\r\n\x1a\n",
            "NIfTI": rb".{344}(n\+1|ni1)\0",
            "MATLAB data": rb"MATLAB 5",
            "a NumPy array": rb"\x93NUMPY",
            "HDF5": rb"\x89HDF\r\n\x1a\n",
        },
    ),
    (
        _EXPORT,
        {
            "DICOM": rb".{128}DICM",
            "PDF": rb"[\s\xef\xbb\xbf]{0,64}%PDF-",
            "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
            "DjVu": rb"AT&TFORM",
            "WMF": rb"\xd7\xcd\xc6\x9a|[\x01\x02]\0\x09\0\0[\x01\x03]",
            "EMF": rb"\x01\0\0\0.{36} EMF",
            "CorelDRAW": rb"RIFF....CDR|WL[ep]",
            "AutoCAD": rb"AC10[0-9][0-9]",
            "InDesign": rb"\x06\x06\xed\xf5\xd8\x1d\x46\xe5",
            "Blender": rb"BLENDER",
            "glTF": rb"glTF",
        },
    ),
    (
        _FRAMES,
        {
            "a video (AVI)": rb"RIFF....AVI ",
            "a video (QuickTime)": rb"....ftypqt  |....(moov|mdat|wide|pnot|skip|free)",
            "a sound file (M4A)": rb"....ftypM4[AB]",
            "a video (MP4)": rb"....ftyp",
            "a video (WebM or Matroska)": rb"\x1a\x45\xdf\xa3",
            "a video (Flash)": rb"FLV\x01|[FCZ]WS[\x01-\x40]",
            "a video (MPEG)": rb"\0\0\x01[\xba\xb3]|\x47.{187}\x47",
            "a video (WMV)": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
            "a video (AV1)": rb"DKIF",
            "an animation (Lottie or .ani)": rb"RIFF....ACON",
        },
    ),
    (
        _UNPACK,
        {
            "an Office document": rb"PK\x03\x04.{26}(\[Content_Types\]|mimetypeapplication/vnd)",
            "a ZIP archive": rb"PK(\x03\x04|\x05\x06|\x07\x08)",
            "a RAR archive": rb"Rar!\x1a\x07",
            "a 7-Zip archive": rb"7z\xbc\xaf\x27\x1c",
            "a gzip archive": rb"\x1f\x8b",
            "a bzip2 archive": rb"BZh[1-9]",
            "an xz archive": rb"\xfd7zXZ\0",
            "a Zstandard archive": rb"\x28\xb5\x2f\xfd",
            "an LZ4 archive": rb"\x04\x22\x4d\x18",
            "a cabinet archive": rb"MSCF",
            "a tar archive": rb".{257}ustar",
            "an old Office document or Thumbs.db": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        },
    ),
    (_SIDECAR, {"AppleDouble, which macOS writes beside a file": rb"\0\x05\x16[\x07\0]"}),
    (
        _NO_PICTURE,
        {
            "a sound file": rb"RIFF....WAVE|ID3|OggS|fLaC|MThd|\xff[\xf1-\xf3\xf9-\xfb]",
            "a RIFF file": rb"RIFF",
            "a program": rb"\x7fELF|MZ.{60}\0\0|\xca\xfe\xba\xbe|[\xcf\xce]\xfa\xed\xfe",
            "a font": rb"OTTO|\0\x01\0\0\0|wOF[F2]|ttcf",
            "a database (SQLite)": rb"SQLite format 3\0",
            "a Windows shortcut": rb"\x4c\0\0\0\x01\x14\x02\0",
            "a property list": rb"bplist0",
            "a folder's .DS_Store": rb"\0\0\0\x01Bud1",
            "weights of a network (GGUF)": rb"GGUF",
        },
    ),
)
_READ_PATTERNS = {
    name: re.compile(pattern, re.DOTALL)
    for name, pattern in (_READ | {name: extra.pattern for name, extra in _EXTRAS.items()}).items()
}
_OTHER_PATTERNS = [
    (name, advice, re.compile(pattern, re.DOTALL))
    for advice, group in _OTHERS
    for name, pattern in group.items()
]
# Camera raw files whose first bytes are a TIFF's as well.
_RAW_TIFF = tuple(one for one in _OTHER_PATTERNS if one[0].endswith(("(CR2)", "(IIQ)")))
_GZIP_HEADER = 16 + zlib.MAX_WBITS


class Kind(NamedTuple):
    """What a file is.

    name: png, jpeg, webp, ... if files of the kind are read, else its usual name. advice: why it is
    not read, and what to do; empty if it is read.
    """

    name: str
    advice: str = ""

    @property
    def is_read(self) -> bool:
        """True if files of this kind are read. A single file may still be broken."""
        return not self.advice

    @property
    def is_picture(self) -> bool:
        """True if it is a picture, including kinds that must be converted first."""
        return self.is_read or self.advice in (_CONVERT, _DEVELOP, *_INSTALL)


_INSTALL = tuple(extra.advice for extra in _EXTRAS.values())
_APPLES_PNG = Kind("a PNG in Apple's own form (CgBI)", _CONVERT)


def read_kinds() -> tuple[str, ...]:
    """The names of the kinds that are read with the packages that are installed."""
    return tuple(name for name in _SUFFIXES if _read_kind(name).is_read)


def read_suffixes() -> frozenset[str]:
    """The usual suffixes of files of these kinds, in lower case."""
    return frozenset(suffix for name in read_kinds() for suffix in _SUFFIXES[name])


def kind_of(head: bytes) -> Kind | None:
    """The kind of the file that begins with `head`: its first `HEAD_BYTES`, or all of it.

    None if the kind is unknown.
    """
    for name, advice, pattern in _RAW_TIFF:
        if pattern.match(head):
            return Kind(name, advice)
    for name, pattern in _READ_PATTERNS.items():
        if pattern.match(head, 0, _BRANDS_END):
            return _APPLES_PNG if name == "png" and head[12:16] == b"CgBI" else _read_kind(name)
    text = text_kind(head)
    if text is not None:
        return Kind(*text)
    if is_svg(_unzipped(head)):
        return Kind("compressed SVG", _EXPORT)
    for name, advice, pattern in _OTHER_PATTERNS:
        if pattern.match(head):
            return Kind(name, advice)
    return Kind("tga") if _is_tga(head) else None


def recognise(head: bytes) -> str:
    """The name of the kind of picture that begins with `head`, if it is a kind that is read.

    Raises `JobError`: unsupported_format, with the name, for any other known kind of file;
    input_unreadable for an unknown one.
    """
    if not head.strip(b"\0"):
        what = "holds nothing but zero bytes" if head else "is empty"
        raise JobError(
            ErrorCode.INPUT_UNREADABLE, f"the input {what}: write or fetch the file again"
        )
    kind = kind_of(head)
    if kind is None:
        raise JobError(ErrorCode.INPUT_UNREADABLE, "the input is no picture of a known kind")
    if not kind.is_read:
        raise JobError(ErrorCode.UNSUPPORTED_FORMAT, f"the input is {kind.name}, {kind.advice}")
    return kind.name


def _read_kind(name: str) -> Kind:
    extra = _EXTRAS.get(name)
    if extra is None or extra.is_installed:
        return Kind(name)
    return Kind(extra.title, extra.advice)


@cache
def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def _unzipped(head: bytes) -> bytes:
    """The first expanded bytes of a gzip file; empty for any other file."""
    try:
        return zlib.decompressobj(_GZIP_HEADER).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def _is_tga(head: bytes) -> bool:
    """True if `head` is a plausible header of a TGA, which has no signature.

    Source: Truevision TGA, version 2.0, section "TGA file header".
    """
    if len(head) < 18:
        return False
    has_palette, kind, depth, descriptor = head[1], head[2], head[16], head[17]
    palette = int.from_bytes(head[5:7], "little"), head[7]
    if has_palette > 1 or kind not in (1, 2, 3, 9, 10, 11) or descriptor & 0xC0:
        return False
    if kind in (1, 9) and not has_palette:
        return False
    if has_palette and (not 0 < palette[0] <= 65535 or palette[1] not in (15, 16, 24, 32)):
        return False
    if not has_palette and (any(head[3:5]) or palette != (0, 0)):
        return False
    depths = {1: (8, 16), 2: (15, 16, 24, 32), 3: (8, 16)}[kind & 7]
    return depth in depths and any(head[12:14]) and any(head[14:16])
