"""The stand-in refuses what the service would refuse: else it would prove nothing of requests."""

from __future__ import annotations

import base64
import http.client
import json
from typing import Any

import numpy as np
import pytest
import pyvips

from imagen_host import photo
from upscaled_models.imagen.loopback import Loopback
from waiting import TIMEOUT_S

PATH = (
    "/v1/projects/loopback-project/locations/us-central1/publishers/google/models/"
    "imagen-4.0-upscale-preview:predict"
)


def encoded(pixels: np.ndarray) -> str:
    """(h, W, bands), as a PNG in base64."""
    return base64.b64encode(pyvips.Image.new_from_array(pixels).write_to_buffer(".png")).decode()


def body(**changes: Any) -> dict[str, Any]:
    """A request in order, but for `changes`: what stands at "a.b" instead, None for nothing."""
    whole: dict[str, Any] = {
        "image": {"bytesBase64Encoded": encoded(photo(20, 10)), "mimeType": "image/png"},
        "parameters": {
            "mode": "upscale",
            "upscaleConfig": {"upscaleFactor": "x2"},
            "outputOptions": {"mimeType": "image/png"},
            "includeRaiReason": True,
            "sampleCount": 1,
        },
    }
    for place, value in changes.items():
        *way, last = place.split(".")
        part = whole
        for name in way:
            part = part[name]
        part[last] = value
        if value is None:
            del part[last]
    return {"instances": [{"image": whole["image"]}], "parameters": whole["parameters"]}


def ask(server: Loopback, content: bytes, path: str = PATH, **headers: str | None) -> int:
    """The status that a request gets; a header that is None is left out."""
    usual = {
        "Authorization": f"Bearer {server.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=TIMEOUT_S)
    try:
        connection.putrequest("POST", path)
        for name, value in (usual | named).items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(content)
        answer = connection.getresponse()
        told = json.loads(answer.read())
    finally:
        connection.close()
    assert ("error" in told) == (answer.status != 200)
    return answer.status


def test_a_correct_request_is_answered(server: Loopback) -> None:
    assert ask(server, json.dumps(body()).encode()) == 200
    assert (len(server.questions), server.refusals) == (1, [])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": None}, 401),
        ({"Authorization": "Bearer of-somebody-else"}, 401),
        ({"Content_Type": "text/plain"}, 400),
        ({"Content_Length": None}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"path": PATH.replace("/v1/", "/v1beta1/")}, 404),
        ({"path": PATH.replace("loopback-project", "of-somebody-else")}, 403),
        ({"path": PATH.replace("imagen-4.0", "imagen-9.0")}, 404),
    ],
)
def test_a_request_for_something_else_is_refused(
    server: Loopback, headers: dict[str, Any], status: int
) -> None:
    assert ask(server, json.dumps(body()).encode(), **headers) == status
    assert server.questions == []


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters.mode": None},
        {"parameters.mode": "edit"},
        {"parameters.upscaleConfig.upscaleFactor": "x5"},
        {"parameters.outputOptions.mimeType": "image/webp"},
        {"parameters.includeRaiReason": False},
        {"parameters.sampleCount": 2},
        {"parameters.sample_count": 1},
        {"image.mimeType": "image/jpeg"},
        {"image.bytesBase64Encoded": "no base64"},
        {"image.bytesBase64Encoded": encoded(np.zeros((10, 20, 4), np.uint8))},
        {"image.bytesBase64Encoded": encoded(np.zeros((10, 20, 3), np.uint16))},
        {"image.bytesBase64Encoded": encoded(np.zeros((2000, 3000, 3), np.uint8))},
    ],
)
def test_a_request_of_another_shape_is_refused(server: Loopback, changes: dict[str, Any]) -> None:
    assert ask(server, json.dumps(body(**changes)).encode()) == 400
    assert (len(server.questions), len(server.refusals)) == (0, 1)


def test_a_request_that_is_not_json_is_refused(server: Loopback) -> None:
    assert ask(server, b"{") == 400
