"""Calls to Vertex AI: retried, limited, cancelled, counted.

    lane threads                      one event loop, in a thread of its own
    Job ── Service.upscale ──────────> a task a call ── google-genai ──> the service
        <───────── answers, JobError ─ a task that watches for the job's cancel

The tasks of a cancelled job are cancelled, which closes their connections; the SDK's synchronous
calls could not be stopped. The SDK's own retries stay off: they ignore Retry-After and cancels, and
do not report how many calls they made.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from google import genai
from google.auth.exceptions import TransportError
from google.genai import types

from upscaled_models.device.threads import give_way
from upscaled_models.engine import Context
from upscaled_models.imagen.account import Account, sign_in
from upscaled_models.imagen.connection import REQUEST, open_session
from upscaled_models.imagen.faults import Fault, fault_of, filtered
from upscaled_models.imagen.ratelimit import RateLimit
from upscaled_protocol.backoff import backoff_s
from upscaled_protocol.envelope import WAITING_STAGE
from upscaled_protocol.errors import ErrorCode, JobError

# A large picture takes the service some ten seconds.
_CALL_TIMEOUT_S = 120.0
_ATTEMPTS = 5
_BACKOFF_BASE_S = 0.5
_BACKOFF_LIMIT_S = 30.0
# The service takes seconds. With less time left, another attempt would only be billed.
_LEAST_TRY_S = 1.0
# Within this time a cancel takes effect.
_WATCH_S = 0.1
# Shorter waits are not reported: each message wakes the host and every process in between.
_PATIENCE_S = 1.0
# A waiting job reports at this interval, and asks the supervisor to allow this much silence. The
# loop itself reports: if it hangs, the job counts as stalled.
_HEARTBEAT_S = 20.0
_SILENCE_BUDGET_S = 60.0
# Between two operations the computing thread needs the interpreter for microseconds. By default it
# waits up to 5 ms for it while another thread has it, as `upscaled bench imagen` shows.
_SWITCH_INTERVAL_S = 0.0005
# Projects whose connections are kept.
_CLIENTS = 8


@dataclass(frozen=True)
class Call:
    """One picture for the service: a file of `mime_type`, to be enlarged by "x2", "x3" or "x4"."""

    account: Account
    model: str
    factor: str
    data: bytes
    mime_type: str


class Tally:
    """Counts a job's calls: made, under way and answered. Reports the job's progress."""

    def __init__(self, context: Context, total: int) -> None:
        self.made = 0
        self._context = context
        self._total = total
        self._under_way = 0
        self._answered = 0
        self._stage = ""
        self._reported_at = time.monotonic()

    def sent(self) -> None:
        """A request is sent. From now on it may be billed."""
        self.made += 1
        self._under_way += 1
        self._report("sent")

    def failed(self) -> None:
        """A call failed. It may be tried again."""
        self._under_way -= 1

    def received(self) -> None:
        """A picture has arrived."""
        self._under_way -= 1
        self._answered += 1
        self._report("received")

    def nothing_new(self) -> None:
        """Called at short intervals: reports now and then, and soon after the job began to wait.

        A waiting job is off the supervisor's stall clock. A job with a call in the service, or with
        all its pictures, stays on it.
        """
        if self._answered == self._total:
            return
        stage = "sent" if self._under_way else WAITING_STAGE
        silence_s = _HEARTBEAT_S if stage == self._stage else _PATIENCE_S
        if time.monotonic() - self._reported_at > silence_s:
            self._report(stage)

    def check_cancelled(self) -> None:
        """Raise `JobError` if the job has to end."""
        self._context.check_cancelled()

    def _report(self, stage: str) -> None:
        self._stage = stage
        self._reported_at = time.monotonic()
        self._context.progress(
            100 * self._answered / self._total,
            stage,
            done=self._answered,
            total=self._total,
            budget_s=_SILENCE_BUDGET_S,
        )


class _Budget:
    """The time that is left for one call with its retries. Waits for the package's own limits are
    not counted."""

    def __init__(self, budget_s: float) -> None:
        self.left_s = budget_s

    @asynccontextmanager
    async def spent(self) -> AsyncIterator[None]:
        """Count the time inside this context. Raises `TimeoutError`."""
        clock = asyncio.get_running_loop().time
        began_at = clock()
        try:
            async with asyncio.timeout(min(_CALL_TIMEOUT_S, self.left_s)):
                yield
        finally:
            self.left_s -= clock() - began_at


class Service:
    """Vertex AI, for all jobs of a worker. Safe to use from any thread."""

    def __init__(self, *, calls_at_once: int, calls_per_minute: int, budget_s: float) -> None:
        self._budget_s = budget_s
        self._rate = RateLimit(calls_per_minute)
        self._room = asyncio.Semaphore(calls_at_once)
        self._credentials: Any = None
        self._signing_in: asyncio.Task[Any] | None = None
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._clients: OrderedDict[Account, genai.Client] = OrderedDict()
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name="imagen", daemon=True)
        self._thread.start()

    def upscale(self, calls: Sequence[Call], tally: Tally) -> list[bytes]:
        """Make the calls, side by side as far as the limits allow; the pictures' files, in order.

        Raises `JobError`: upstream_*, and what the job's cancel raises. Then the other calls are
        stopped.
        """
        return asyncio.run_coroutine_threadsafe(self._upscale(calls, tally), self._loop).result()

    def close(self) -> None:
        """Close the connections; no call may be under way."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run_loop(self) -> None:
        give_way()
        self._loop.run_forever()

    async def _close(self) -> None:
        while self._clients:
            self._clients.popitem()[1].close()
        if self._session is not None:
            await self._session.close()

    async def _upscale(self, calls: Sequence[Call], tally: Tally) -> list[bytes]:
        tasks = [asyncio.create_task(self._retried(call, tally)) for call in calls]
        answers: asyncio.Future[list[bytes]] = asyncio.gather(*tasks)
        watch = asyncio.create_task(self._watch(tally))
        running: list[asyncio.Future[Any]] = [*tasks, answers, watch]
        try:
            await asyncio.wait(running[-2:], return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                watch.result()  # raises: it only ends by an exception
            return await answers
        finally:
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _watch(self, tally: Tally) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            # The watches of all jobs wake at the same moments: the thread wakes once for all.
            await asyncio.sleep(_WATCH_S - clock() % _WATCH_S)
            tally.check_cancelled()
            tally.nothing_new()

    async def _retried(self, call: Call, tally: Tally) -> bytes:
        """One call, repeated if that may help."""
        budget = _Budget(self._budget_s)
        for attempt in itertools.count(1):
            try:
                return await self._tried(call, tally, budget)
            except Exception as error:  # noqa: BLE001 - each exception of the SDK becomes a fault
                fault = fault_of(error, self._secret)
            if not fault.retryable:
                raise fault.error
            pause_s = max(_pause_s(attempt), fault.retry_after_s)
            if attempt == _ATTEMPTS or pause_s + _LEAST_TRY_S > budget.left_s:
                raise _given_up(fault, attempt)
            budget.left_s -= pause_s
            await asyncio.sleep(pause_s)
        raise AssertionError("the attempts have no end but those above")

    async def _tried(self, call: Call, tally: Tally, budget: _Budget) -> bytes:
        async with self._room:
            try:
                async with budget.spent():
                    client = await self._client(call.account)
            except TimeoutError:
                raise TransportError from None
            await self._rate.turn()
            tally.sent()
            try:
                async with budget.spent():
                    answer = await self._call_once(client, call)
            except Exception:
                tally.failed()
                raise
            tally.received()
            return answer

    async def _call_once(self, client: genai.Client, call: Call) -> bytes:
        response = await client.aio.models.upscale_image(
            model=call.model,
            image=types.Image(image_bytes=call.data, mime_type=call.mime_type),
            upscale_factor=call.factor,
            config=types.UpscaleImageConfig(
                output_mime_type="image/png",
                # Otherwise a filtered picture is missing without a reason.
                include_rai_reason=True,
            ),
        )
        for picture in response.generated_images or []:
            if picture.rai_filtered_reason:
                raise filtered(picture.rai_filtered_reason, self._secret)
            if picture.image is not None and picture.image.image_bytes:
                return picture.image.image_bytes
        raise JobError(
            ErrorCode.UPSTREAM_UNAVAILABLE, "the cloud service answered without a picture"
        )

    async def _client(self, account: Account) -> genai.Client:
        """A client whose credentials have a token."""
        await self._sign_in()
        async with self._opening:
            if self._session is None:
                self._session = await open_session()
            if account not in self._clients:
                self._clients[account] = await asyncio.to_thread(self._new_client, account)
                if len(self._clients) > _CLIENTS:
                    self._clients.popitem(last=False)
            self._clients.move_to_end(account)
            return self._clients[account]

    async def _sign_in(self) -> None:
        """All calls that need a token wait for the same one: it may take many seconds to find that
        there is none."""
        if self._credentials is not None and self._credentials.valid:
            return
        if self._signing_in is None or self._signing_in.done():
            self._signing_in = asyncio.create_task(asyncio.to_thread(sign_in, self._credentials))
            # All callers may be cancelled by then. Read the exception, or asyncio logs it.
            self._signing_in.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._credentials = await asyncio.shield(self._signing_in)

    def _new_client(self, account: Account) -> genai.Client:
        # Always give all three: with another base URL, and one of them missing, the SDK sends
        # requests without authentication.
        return genai.Client(
            vertexai=True,
            project=account.project,
            location=account.region,
            credentials=self._credentials,
            http_options=types.HttpOptions(
                base_url=account.base_url,
                api_version="v1",
                timeout=int(_CALL_TIMEOUT_S * 1000),
                aiohttp_client=self._session,
                async_client_args=REQUEST,
                # One attempt means no retries. By default the SDK retries some failures by itself.
                retry_options=types.HttpRetryOptions(attempts=1),
            ),
        )

    @property
    def _secret(self) -> str | None:
        return getattr(self._credentials, "token", None)


def _pause_s(attempt: int) -> float:
    """Twice as long each time, with jitter, so that failed jobs do not retry together."""
    jitter = random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    return jitter * backoff_s(attempt, _BACKOFF_BASE_S, _BACKOFF_LIMIT_S)


def _given_up(fault: Fault, attempts: int) -> JobError:
    tried = f"tried {attempts} times" if attempts > 1 else "tried once"
    asked = f"; it asks for a pause of {fault.retry_after_s:.0f} s" if fault.retry_after_s else ""
    return JobError(fault.error.code, f"{fault.error.message} ({tried}{asked})")
