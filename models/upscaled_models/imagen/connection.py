"""The HTTP of calls, stricter than the SDK's own.

Redirects are not followed, because that would send the picture to another server. A refusal is
recognised by its status, whatever its body holds. The size of an answer is limited.
"""

from __future__ import annotations

import aiohttp
from google.genai.errors import APIError

from upscaled_models.imagen.layout import MAX_OUTPUT_PIXELS
from upscaled_protocol.errors import ErrorCode, JobError

# Options for each request.
REQUEST = {"allow_redirects": False}
# RGBA without compression takes 4 bytes per pixel, and 5.3 in base64.
_ANSWER_LIMIT_BYTES = 6 * MAX_OUTPUT_PIXELS
# An answer has megabytes. With a larger buffer the loop wakes less often.
_BUFFER_BYTES = 4 * 1024 * 1024


class _Answer(aiohttp.ClientResponse):
    async def read(self) -> bytes:
        """The body. Raises `JobError` (upstream_unavailable) if it is larger than any picture."""
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
    """Connections for any number of calls at once, through the environment's proxy."""
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
        answer = await response.json(content_type=None)
    except (ValueError, RecursionError):  # for example a proxy's page with a wrong content type
        answer = {"message": await response.text(errors="replace")}
    raise APIError(response.status, answer, response)
