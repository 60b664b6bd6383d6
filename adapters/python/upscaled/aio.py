"""For asyncio.

async with upscaled.AsyncUpscaler() as up:
    result = await up.upscale("in.jpg", "out.png", factor=2)
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Self, TypeVar, Unpack, overload

from upscaled.call import Call
from upscaled.client import ASK_TIMEOUT_S
from upscaled.errors import UpscaledError, local_error
from upscaled.messages import Message, read
from upscaled.options import StrPath
from upscaled.protocol import HealthReport, Job, Progress, Status
from upscaled.request import CallOptions, is_path
from upscaled.result import Result
from upscaled.upscaler import (
    UpscalerOptions,
    checked_request,
    client_of,
    close_with,
    start_call,
)

if TYPE_CHECKING:
    from concurrent.futures import Future

    from PIL import Image

    from upscaled.upscaler import Array, Picture

T = TypeVar("T")


class AsyncCall(Generic[T]):
    """A submitted job. `await` it for its result. Iterate over it for its progress; if the job
    failed, its error is raised at the end.

    If a task is cancelled while it does one of these, the job is cancelled too. The task ends once
    the daemon has ended the job: after that nothing is written to the output.
    """

    def __init__(self, start: Callable[[], Call[T]], *, in_thread: bool, reads: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._start = start
        self._is_cancelled = False
        self._reads = reads  # the result reads a picture, which another thread does
        self._started: asyncio.Future[Call[T]]
        if in_thread:
            self._started = asyncio.ensure_future(asyncio.to_thread(self._begin))
        else:
            self._started = self._loop.create_future()
            self._started.set_result(self._begin())

    def _begin(self) -> Call[T]:
        if self._is_cancelled:
            raise local_error("cancelled", "the job was cancelled")
        return self._start()

    def cancel(self) -> bool:
        """End the job; False if it has ended."""
        if self.done():
            return False
        self._is_cancelled = True
        # At once, or as soon as it has started.
        self._started.add_done_callback(_cancel_started)
        return True

    def done(self) -> bool:
        """True if the job has ended."""
        started = self._started
        if not started.done():
            return False
        return started.cancelled() or bool(started.exception()) or started.result().done()

    def __await__(self) -> Generator[Any, None, Result[T]]:
        return self._result().__await__()

    async def _result(self) -> Result[T]:
        call = await self._call()
        await _ended(call)
        return await asyncio.to_thread(call.result) if self._reads else call.result()

    async def _call(self) -> Call[T]:
        """The started call. If the task is cancelled meanwhile, so is the job."""
        try:
            return await asyncio.shield(self._started)
        except asyncio.CancelledError:
            if not self._started.cancelled():
                self.cancel()
                with contextlib.suppress(UpscaledError):
                    await _ended(await asyncio.shield(self._started))
            raise

    async def __aiter__(self) -> AsyncIterator[Progress]:
        call = await self._call()
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[Progress | None] = asyncio.Queue()

        def put(progress: Progress | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(news.put_nowait, progress)

        call.listen(put)
        call.add_done_callback(lambda _: put(None))
        try:
            while (progress := await news.get()) is not None:
                yield progress
        except asyncio.CancelledError:
            call.cancel()
            await _ended(call)
            raise
        await self._result()


def _cancel_started(started: asyncio.Future[Call[Any]]) -> None:
    if not started.cancelled() and started.exception() is None:
        started.result().cancel()


async def _ended(call: Call[Any]) -> None:
    """Wait for the call's end. If the task is cancelled, cancel the job and wait for its end; a
    second cancel ends the wait at once."""
    ended = _event_of(call)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        call.cancel()
        await ended.wait()
        raise


def _event_of(future: Future[Any]) -> asyncio.Event:
    """An event of the running loop that is set when the future is done."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def set_event(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(event.set)

    future.add_done_callback(set_event)
    return event


class AsyncUpscaler:
    """`Upscaler` for asyncio. Any number of tasks and loops may use one."""

    def __init__(self, **options: Unpack[UpscalerOptions]) -> None:
        self._client, self._by_file = client_of(options)
        close_with(self, self._client)

    async def start(self) -> Status:
        """Start the daemon now, wait until it is ready, and return its status. Raises
        `DaemonGoneError` if it cannot get ready."""
        ready = self._client.ready()
        await _event_of(ready).wait()
        return read(Status, ready.result())

    @property
    def pid(self) -> int | None:
        """The daemon's process; None while there is none."""
        return self._client.pid

    @overload
    async def upscale(
        self, picture: Picture, output: type[T], **options: Unpack[CallOptions]
    ) -> Result[T]: ...
    @overload
    async def upscale(
        self, picture: Picture, output: StrPath, **options: Unpack[CallOptions]
    ) -> Result[None]: ...
    @overload
    async def upscale(
        self, picture: StrPath, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[None]: ...
    @overload
    async def upscale(
        self, picture: bytes | BinaryIO, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[bytes]: ...
    @overload
    async def upscale(
        self, picture: Image.Image, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[Image.Image]: ...
    @overload
    async def upscale(
        self, picture: Array, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[Array]: ...
    async def upscale(
        self, picture: Any, output: Any = None, **options: Unpack[CallOptions]
    ) -> Result[Any]:
        """Upscale one picture; as `Upscaler.upscale`."""
        return await self._submit(picture, output, options)

    @overload
    def submit(
        self, picture: Picture, output: type[T], **options: Unpack[CallOptions]
    ) -> AsyncCall[T]: ...
    @overload
    def submit(
        self, picture: Picture, output: StrPath, **options: Unpack[CallOptions]
    ) -> AsyncCall[None]: ...
    @overload
    def submit(
        self, picture: StrPath, output: None = None, **options: Unpack[CallOptions]
    ) -> AsyncCall[None]: ...
    @overload
    def submit(
        self, picture: bytes | BinaryIO, output: None = None, **options: Unpack[CallOptions]
    ) -> AsyncCall[bytes]: ...
    @overload
    def submit(
        self, picture: Image.Image, output: None = None, **options: Unpack[CallOptions]
    ) -> AsyncCall[Image.Image]: ...
    @overload
    def submit(
        self, picture: Array, output: None = None, **options: Unpack[CallOptions]
    ) -> AsyncCall[Array]: ...
    def submit(
        self, picture: Any, output: Any = None, **options: Unpack[CallOptions]
    ) -> AsyncCall[Any]:
        """Start to upscale one picture: `async for progress in up.submit(...)`, or `await` it."""
        return self._submit(picture, output, options)

    def submit_job(
        self, job: Job | Message, on_progress: Callable[[Progress], None] | None = None
    ) -> AsyncCall[None]:
        """Submit a job of any method, in the form of the protocol."""
        listener = _in_loop(on_progress)
        return AsyncCall(
            lambda: self._client.submit(job, lambda one: Result.of(one, None), listener),
            in_thread=False,
            reads=False,
        )

    def cancel_all(self) -> None:
        """Cancel every call that is open."""
        self._client.cancel_all()

    async def health(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """The daemon's report. Raises `NoAnswerError` after this time, and `DaemonGoneError`."""
        return await self._ask("health", timeout_s)

    async def trim(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """Free the daemon's caches and its unused models. Raises as `health` does."""
        return await self._ask("trim", timeout_s)

    def replay(self, job_ids: Sequence[str] | None = None) -> None:
        """Ask a daemon with a journal to send the ends of these jobs, or of all, again. They come
        to `on_message`."""
        self._client.replay(job_ids)

    async def close(self) -> None:
        """As `Upscaler.close`."""
        await asyncio.to_thread(self._client.close)

    async def kill(self) -> None:
        """As `Upscaler.kill`."""
        await asyncio.to_thread(self._client.kill)

    def _submit(self, picture: Any, output: Any, options: CallOptions) -> AsyncCall[Any]:
        options = {**options, "on_progress": _in_loop(options.get("on_progress"))}  # type: ignore[typeddict-item]

        def start() -> Call[Any]:
            request = checked_request(picture, output, options, by_file=self._by_file)
            return start_call(self._client, request)

        is_named = is_path(picture)
        is_file = is_path(output) or (output is None and is_named)
        # A picture in memory is written to a file, and perhaps encoded.
        return AsyncCall(start, in_thread=not is_named, reads=not is_file)

    async def _ask(self, kind: str, timeout_s: float) -> HealthReport:
        answer = self._client.ask(kind, timeout_s)
        await _event_of(answer).wait()
        return read(HealthReport, answer.result())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error no caller waits for the calls in flight.
        if kind is not None and not self._client.is_idle:
            await self.kill()
        else:
            await self.close()


def _in_loop(on_progress: Callable[[Any], None] | None) -> Callable[[Any], None] | None:
    """Call it in the running loop's thread."""
    if on_progress is None:
        return None
    loop, callback = asyncio.get_running_loop(), on_progress

    def call(progress: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(callback, progress)

    return call
