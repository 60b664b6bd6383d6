"""The HTTP side of calls, stricter than the SDK would have it.

A redirect is an answer like any other: who follows one sends the picture to whoever is named there.
A refusal is known by its status, whatever its body holds. An answer may not fill the memory.
"""

from __future__ import annotations

import aiohttp
from google.genai.errors import APIError

from upscaled_models.imagen.layout import MAX_OUTPUT_PIXELS
from upscaled_protocol.errors import ErrorCode, JobError

# Options for each request.
REQUEST = {"allow_redirects": False}
# Without any compression RGBA takes 4 bytes a pixel, and in base64 5.3.
_ANSWER_LIMIT_BYTES = 6 * MAX_OUTPUT_PIXELS
# An answer has megabytes: a larger buffer wakes the loop less often.
_BUFFER_BYTES = 4 * 1024 * 1024


class _Answer(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        """The body. Raises `JobError` (upstream_unavailable) where no picture is as large."""
        if self._body is None:
            body = bytearray()
            async for chunk in self.content.iter_any():
                body += chunk
                if len(body) > _ANSWER_LIMIT_BYTES:
                    self.close()
                    raise JobError(
                        ErrorCode.UPSTREAM_UNAVAILABLE,
                        "the cloud service's answer is larger than any picture",
                    )
            self._body = bytes(body)
        return await super().read()


async def open_session() -> aiohttp.ClientSession:
    """Connections for as many calls at once as are made, through the environment's proxy."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        trust_env=True,
        read_bufsize=_BUFFER_BYTES,
        response_class=_Answer,
        raise_for_status=_check_status,
    )


async def _check_status(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    try:
        told = await response.json(content_type=None)
    except (ValueError, RecursionError):  # a proxy's page, whatever it calls itself
        told = {"message": await response.text(errors="replace")}
    raise APIError(response.status, told, response)
