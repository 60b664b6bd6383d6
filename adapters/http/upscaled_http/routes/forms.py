"""The requests' bodies in the OpenAPI document. `submission.py` reads them."""

from __future__ import annotations

from typing import Any

from upscaled_http.fields import form_fields
from upscaled_protocol.envelope import METHODS


def request_body(file_field: str) -> dict[str, Any]:
    """A form with a picture and fields, or the same as JSON."""
    fields = form_fields()
    method = {"type": "string", "enum": list(METHODS), "default": "esrgan"}
    inputs = {
        "image_url": {"type": "string", "format": "uri", "description": "Instead of a file."},
        "image_base64": {"type": "string", "description": "The picture, also as a data: URL."},
    }
    file = {"type": "string", "format": "binary", "description": "The picture."}
    many = {"type": "array", "items": file}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        file_field: file if file_field == "image" else many,
                        "method": method,
                        "image_url": inputs["image_url"],
                        **fields,
                    },
                }
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {**inputs, "method": method, **fields},
                }
            },
        },
    }
