"""The requests that the service accepts, as the loopback server checks them.

Source: Vertex AI, Imagen upscaling, REST reference (`:predict` of imagen-4.0-upscale-preview).
"""

from __future__ import annotations

import base64
import binascii
import time
from typing import Literal

import numpy as np
import pyvips
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from upscaled_imaging import formats
from upscaled_imaging.kinds import HEAD_BYTES, recognise
from upscaled_imaging.metadata import Metadata
from upscaled_imaging.read import Source
from upscaled_models.imagen.layout import MAX_INPUT_BYTES, MAX_OUTPUT_PIXELS
from upscaled_protocol.errors import JobError


class Refusal(Exception):  # noqa: N818 - an answer of the service, not an error in it
    """The request gets this HTTP status, with Google's name for it."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message


class _Part(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", strict=True)


class _Image(_Part):
    bytes_base64_encoded: str
    mime_type: Literal["image/png", "image/jpeg"]


class _Instance(_Part):
    prompt: Literal[""] = ""
    image: _Image


class _UpscaleConfig(_Part):
    upscale_factor: Literal["x2", "x3", "x4"]


class _OutputOptions(_Part):
    mime_type: Literal["image/png"]


class _Parameters(_Part):
    mode: Literal["upscale"]
    upscale_config: _UpscaleConfig
    output_options: _OutputOptions
    include_rai_reason: Literal[True]
    sample_count: Literal[1]


class _Body(_Part):
    instances: list[_Instance] = Field(min_length=1, max_length=1)
    parameters: _Parameters


class Question:
    """One valid request: `rgb` is (h, W, 3) of 8 bits, to be enlarged by `factor`. `asked_at` is in
    seconds of the monotonic clock.

    Raises `Refusal` if the service would refuse it.
    """

    def __init__(self, body: bytes) -> None:
        self.asked_at = time.monotonic()
        try:
            parsed = _Body.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise _invalid(f"{place}: {first['msg']}") from None
        self.factor = int(parsed.parameters.upscale_config.upscale_factor[1:])
        image = parsed.instances[0].image
        self.mime_type = image.mime_type
        self.rgb = _pixels(image, self.factor)


def _pixels(image: _Image, factor: int) -> np.ndarray:
    try:
        data = base64.b64decode(image.bytes_base64_encoded, validate=True)
    except binascii.Error:
        raise _invalid("the picture is no base64") from None
    if len(data) > MAX_INPUT_BYTES:
        raise _invalid(f"the picture has {len(data)} bytes, more than {MAX_INPUT_BYTES}")
    try:
        kind = recognise(data[:HEAD_BYTES])
        decoded = formats.load(kind, pyvips.Source.new_from_memory(data))
        source = Source(decoded, Metadata(), None, "")
        rgb = source.rows(source.height)
    except JobError as error:
        raise _invalid(error.message) from None
    if image.mime_type != f"image/{kind}":
        raise _invalid(f"the picture is {kind}, and not {image.mime_type}")
    if rgb.dtype != np.uint8 or rgb.shape[2] != 3:
        raise _invalid(f"the picture has {rgb.shape[2]} channels of {rgb.dtype}")
    if rgb.shape[0] * rgb.shape[1] * factor**2 > MAX_OUTPUT_PIXELS:
        raise _invalid("the answer would have too many pixels")
    return rgb


def _invalid(message: str) -> Refusal:
    return Refusal(400, "INVALID_ARGUMENT", message)
