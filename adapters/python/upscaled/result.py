"""The result of a call: the daemon's result, and the picture if the caller wants it."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from upscaled.messages import read
from upscaled.protocol import ResultMessage

T = TypeVar("T")

# Formats that a notebook shows, by the first bytes of the file.
_SHOWN = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"RIFF": "image/webp",
}
# Larger files make a notebook slow, so it shows a smaller copy.
_SHOWN_BYTES = 8 * 1024 * 1024
_SHOWN_PIXELS = 1600


@dataclass(slots=True, kw_only=True)
class Result(ResultMessage, Generic[T]):
    """A completed job. `output_path` is the complete file, if the output is a file.

    If a notebook's cell ends with a result, the notebook shows the picture.
    """

    # The picture, of the class that was given as the output; None for a file.
    image: T = None  # type: ignore[assignment]
    # The daemon's message, also with fields of later daemons.
    message: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, message: dict[str, Any], image: T) -> Result[T]:
        """The result of a daemon's message."""
        result = read(cls, message)
        result.image = image
        result.message = message
        return result

    def _repr_mimebundle_(
        self,
        include: object = None,  # noqa: ARG002 - a notebook's protocol
        exclude: object = None,  # noqa: ARG002
    ) -> dict[str, str]:
        """The picture for a notebook, and a text."""
        bundle = {"text/plain": repr(self)}
        data = self._encoded()
        kind = next((kind for head, kind in _SHOWN.items() if data.startswith(head)), None)
        if kind is None or len(data) > _SHOWN_BYTES:
            kind, data = "image/png", self._smaller(data)
        if data:
            bundle[kind] = base64.b64encode(data).decode("ascii")
        return bundle

    def _encoded(self) -> bytes:
        """The output file's bytes; empty if the file is gone."""
        if isinstance(self.image, bytes):
            return self.image
        if self.image is None and self.output_path is not None:
            try:
                return Path(self.output_path).read_bytes()
            except OSError:
                return b""
        return b""

    def _smaller(self, data: bytes) -> bytes:
        """The picture as a PNG that a notebook can show; empty if Pillow cannot make it."""
        import io

        try:
            from PIL import Image

            held: Any = self.image
            if hasattr(held, "thumbnail"):
                picture = held.copy()
            elif hasattr(held, "dtype"):
                picture = Image.fromarray(_eight_bits(held))
            else:
                picture = Image.open(io.BytesIO(data))
            picture.thumbnail((_SHOWN_PIXELS, _SHOWN_PIXELS))
            file = io.BytesIO()
            picture.convert("RGBA" if "A" in picture.getbands() else "RGB").save(file, "PNG")
        except (ImportError, OSError, TypeError, ValueError):
            return b""
        return file.getvalue()


def _eight_bits(array: Any) -> Any:
    """The array with 8 bits per channel."""
    return (array >> 8).astype("uint8") if array.dtype == "uint16" else array
