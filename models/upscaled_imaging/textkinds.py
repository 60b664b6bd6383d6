"""Which kind of text a file is: markup, data, or a pointer to the picture.

A web page saved as `photo.jpg` is the most common broken download.
"""

from __future__ import annotations

import re

_EXPORT = "which is not read here: export it as PNG or TIFF, in the size that you want"
_CONVERT = "which is not read here: convert it to PNG, JPEG, WebP, TIFF or AVIF"
_NO_PICTURE = "no picture: read its text, because the download or the upload went wrong"
_POINTER = "which only stands for the file: run `git lfs pull`, and send what that fetches"
_BASE64 = "no picture: decode it, or send it as image_base64"
_AS_TEXT = "which damages it for good: read, send and store the original as bytes"
# The control characters that text does not have. It has tab, line breaks, form feed, backspace and
# escape.
_CONTROLS = re.compile(r"[\0-\x07\x0b\x0e-\x1a\x1c-\x1f\x7f]")
# The replacement character for bytes that are not UTF-8. Text of an old encoding has some, pixels
# have many.
_REPLACED = "\ufffd"
_MOST_REPLACED = 0.25
_ENCODINGS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"<\0": "utf-16-le",
    b"\0<": "utf-16-be",
}
_SPACE = re.compile(r"\s*")
_ELEMENT = re.compile(r"<(?:[\w.-]{1,64}:)?([\w.-]{1,64})")
_DOCTYPE = re.compile(r"<!doctype\s{1,64}([\w.-]{1,64})", re.IGNORECASE)
_HTML = frozenset(
    {"html", "head", "body", "title", "meta", "script", "style", "div", "p", "h1", "center", "link"}
)
# Kinds that are recognised by their first bytes, although these are text.
_TOLD_ELSEWHERE = re.compile(r"%PDF|%!PS|P[1-7Ff]4?\s|#\?R|id=ImageMagick|SIMPLE  =")
# In this order: the first pattern that matches decides.
_KINDS = tuple(
    (name, advice, re.compile(pattern))
    for name, advice, pattern in (
        ("a git-lfs pointer", _POINTER, r"version https://(git-lfs|hawser)"),
        ("a picture in base64", _BASE64, r"data:image/|/9j/|iVBORw0KGgo|UklGR|R0lGODlh|SUkqA"),
        ("XPM", _CONVERT, r"/\* XPM \*/|! XPM2"),
        ("XBM", _CONVERT, r"#define \w{1,64}_width\s"),
        ("an HTTP response with its headers", _NO_PICTURE, r"HTTP/[12]"),
        ("the body of a form (multipart)", _NO_PICTURE, r"--[^\r\n]{1,80}\r?\nContent-"),
        ("an e-mail", _NO_PICTURE, r"MIME-Version:|Return-Path:|Received:"),
        ("a shortcut to a URL", _NO_PICTURE, r"\[InternetShortcut\]"),
        ("JSON", _NO_PICTURE, r"\{\s{0,64}[\"}]|\[\s{0,64}[\[{\"\d\]]"),
        ("plain text", _NO_PICTURE, r""),
    )
)


def text_kind(head: bytes) -> tuple[str, str] | None:
    """Name and advice for a file that begins with `head`; None if it is no text."""
    mangled = _REPLACED.encode()
    if head.startswith((mangled + b"PNG", 3 * mangled)):
        return "a picture that was decoded as text", _AS_TEXT
    text = _decoded(head)
    if text is None or _TOLD_ELSEWHERE.match(text):
        return None
    if text.startswith("<"):
        return _markup_kind(text)
    return next((name, advice) for name, advice, pattern in _KINDS if pattern.match(text))


def is_svg(head: bytes) -> bool:
    """True if a text that begins with `head` is SVG."""
    return _root(_decoded(head) or "") == "svg"


def _decoded(head: bytes) -> str | None:
    """`head` as text without leading space; None if it is no text. It may be cut off."""
    encoding = next(
        (encoding for mark, encoding in _ENCODINGS.items() if head.startswith(mark)), "utf-8"
    )
    text = head.decode(encoding, "replace")
    if _CONTROLS.search(text) or text.count(_REPLACED) > _MOST_REPLACED * len(text):
        return None
    return text.lstrip() or None


def _markup_kind(text: str) -> tuple[str, str]:
    root = _root(text)
    if root == "svg":
        return "SVG", _EXPORT
    if root in _HTML:
        return "an HTML page", _NO_PICTURE
    return "XML" + (f" ({root})" if root else ""), _NO_PICTURE


def _root(text: str) -> str:
    """The name of a document's first element, or of its type; empty if neither is found."""
    at = 0
    while True:
        at += len(_SPACE.match(text, at)[0])  # type: ignore[index] # it always matches
        match = _DOCTYPE.match(text, at) or _ELEMENT.match(text, at)
        if match:
            return match[1].lower()
        # Comments, processing instructions and declarations may come first.
        closing = "-->" if text.startswith("<!--", at) else ">"
        end = text.find(closing, at)
        if end < 0 or not text.startswith("<", at):
            return ""
        at = end + len(closing)
