"""The limit of submits per minute for one key, or for one address."""

from __future__ import annotations

import ipaddress
import math
import time
from typing import NamedTuple

from limits import RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from upscaled_http.dependencies import Caller

WINDOW_S = 60

# Providers give each customer a network of this size.
_IPV6_CUSTOMER_PREFIX = 64


class Standing(NamedTuple):
    """A caller's use of the rate, after a submit."""

    is_allowed: bool
    remaining: int
    reset_s: int  # until one more submit is allowed, if none is left

    def headers(self, quota: int) -> dict[str, str]:
        """The fields of draft-ietf-httpapi-ratelimit-headers."""
        return {
            "RateLimit-Policy": f'"minute";q={quota};w={WINDOW_S}',
            "RateLimit": f'"minute";r={self.remaining};t={self.reset_s}',
        }


class SubmitRate:
    """Counts in a moving window. In fixed minutes a caller could send twice the rate within one
    minute."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute = per_minute
        self._limit = RateLimitItemPerMinute(per_minute)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    async def hit(self, caller: Caller) -> Standing:
        """Count a submit, if the rate allows one more."""
        who = caller.key_name or _network(caller.address)
        is_allowed = await self._limiter.hit(self._limit, who)
        reset_time, remaining = await self._limiter.get_window_stats(self._limit, who)
        return Standing(is_allowed, remaining, max(1, math.ceil(reset_time - time.time())))


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, _IPV6_CUSTOMER_PREFIX), strict=False))
    return address
