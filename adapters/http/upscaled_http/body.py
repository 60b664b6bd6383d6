"""A request's body, as it comes: its size, and the time that the client takes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive

from upscaled_http.config import LimitSettings, ServerSettings
from upscaled_http.problems import HttpCode, ProblemError
from upscaled_protocol.errors import ErrorCode

MIB = 1024 * 1024


class LimitedBody:
    """Wraps `receive`. Raises `ProblemError` in the route that reads a body which is too large or
    too slow, whether it told its length before or not."""

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

    def check_told_length(self, headers: Mapping[str, str]) -> None:
        """Raises `ProblemError` if the client says that the body will be too large."""
        told = headers.get("content-length", "")
        if told.isdecimal() and int(told) > self._limit_bytes:
            raise self._too_large()

    async def __call__(self) -> Message:
        """The next message, as ASGI has it."""
        if self.is_complete:
            # What follows is the end of the connection, for which a stream waits as long as it is.
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
            f"The upload stopped: nothing came for {self._server.upload_idle_s:g} s, or all of it "
            f"took more than {self._server.upload_timeout_s:g} s. Send it again.",
        )
