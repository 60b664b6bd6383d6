"""The limits of a request's body: its size, and the time that the client takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive

from upscaled_http.config import LimitSettings, ServerSettings
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.errors import ErrorCode

MIB = 1024 * 1024


class LimitedBody:
    """Wraps `receive`. A route that reads a body which is too large or too slow gets a
    `ProblemError`."""

    def __init__(
        self,
        receive: Receive,
        headers: Mapping[str, str],
        server: ServerSettings,
        limits: LimitSettings,
    ) -> None:
        self._receive = receive
        self._server = server
        self._limits = limits
        self._deadline: float | None = None
        self.received_bytes = 0
        self.is_complete = headers.get("content-length", "0") == "0" and (
            "transfer-encoding" not in headers
        )

    @property
    def _limit_bytes(self) -> int:
        return self._limits.max_request_mb * MIB

    def check_declared_length(self, headers: Mapping[str, str]) -> None:
        """Raise `ProblemError` if Content-Length is above the limit."""
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limit_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        """The next message of ASGI."""
        if self.is_complete:
            # Only the end of the connection can follow. A stream waits for it without a limit.
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._server.upload_timeout_s
        wait_s = min(self._server.upload_idle_s, self._deadline - now)
        if wait_s <= 0:
            raise self._too_slow()
        try:
            async with asyncio.timeout(wait_s):
                message = await self._receive()
        except TimeoutError:
            raise self._too_slow() from None
        if message["type"] == "http.request":
            self.received_bytes += len(message.get("body", b""))
            if self.received_bytes > self._limit_bytes:
                raise self._too_large()
            self.is_complete = not message.get("more_body", False)
        return message

    def _too_large(self) -> ProblemError:
        return ProblemError(
            ErrorCode.INPUT_TOO_LARGE,
            f"The request is larger than {self._limits.max_request_mb} MB, this server's limit; "
            "send a smaller picture.",
        )

    def _too_slow(self) -> ProblemError:
        return ProblemError(
            HttpCode.UPLOAD_TIMEOUT,
            f"The upload was too slow: nothing came for {self._server.upload_idle_s:g} s, or the "
            f"whole took more than {self._server.upload_timeout_s:g} s. Send it again.",
        )
