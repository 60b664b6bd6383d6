"""For programs that wait: threads, scripts, Django, notebooks.

with upscaled.Upscaler() as up:
    result = up.upscale("in.jpg", "out.png", factor=2)
"""

from __future__ import annotations

import _thread
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypedDict, TypeVar, Unpack, overload

from upscaled.call import Call
from upscaled.client import ASK_TIMEOUT_S, Client
from upscaled.errors import local_error
from upscaled.messages import Message, read
from upscaled.options import ClientOptions, StrPath
from upscaled.protocol import HealthReport, Job, Progress, Status
from upscaled.request import CallOptions, Request, request_of
from upscaled.result import Result

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from upscaled.http.client import HttpClient

    AnyClient = Client | HttpClient
    Array = np.ndarray[Any, Any]
    Picture = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | Array

T = TypeVar("T")

_SERVER_OPTIONS = frozenset(
    {"url", "key", "attempts", "restart_delay_s", "close_timeout_s", "cancel_grace_s"}
)


class UpscalerOptions(TypedDict, total=False):
    """How the daemon is started and ended; or, with `url`, the server that runs the jobs
    instead."""

    # The address of `upscaled serve`, as in "http://upscaler:8080". Of the options below, only
    # `attempts`, `restart_delay_s`, `close_timeout_s` and `cancel_grace_s` may be given with it.
    url: str
    # One of the server's keys, if it has any.
    key: str
    # The daemon. Default: `upscaled run` of this installation.
    command: Sequence[str]
    # More of its arguments, as in ["--workers", "2"].
    args: Sequence[str]
    cwd: StrPath
    env: Mapping[str, str]
    # A file that keeps accepted jobs, so that they outlive the daemon. One file per process.
    journal: StrPath
    # True: the daemon's log goes to this process's stderr. Else it goes to the logger "upscaled".
    show_log: bool
    # Starts in a row that may fail, and daemons that may end without accepting a job; 0: it is
    # never started again. Default: 5, with pauses from 0.2 s to 10 s. For a server: tries after a
    # lost connection; default: 8.
    attempts: int
    restart_delay_s: float
    # The time for open jobs when the client is closed. Default: 30.
    close_timeout_s: float
    # The time for the daemon to end a job after a cancel or its `timeout_s`; then the call ends
    # without it. Default: 25, above the daemon's own `--cancel-grace-s`, which is 20.
    cancel_grace_s: float
    # The daemon's `--line-limit-bytes`. Default: 32 MiB.
    line_limit_bytes: int
    # True: pictures in memory are sent by temporary files. False: in the job's line, for a daemon
    # that cannot read this machine's files. Default: False if `args` has `--allow-root`.
    by_file: bool
    # Called with every message of the daemon, in the reader's thread: it must not wait.
    on_message: Callable[[dict[str, Any]], None]


def client_of(options: UpscalerOptions) -> tuple[AnyClient, bool]:
    """The client; and True if pictures in memory are sent by file. Raises `TypeError`."""
    given: dict[str, Any] = {**options}
    if "url" in given:
        if daemons := sorted(set(given) - _SERVER_OPTIONS):
            raise TypeError(f"{', '.join(daemons)}: options of a daemon, which exclude url")
        from upscaled.http.client import HttpClient, ServerOptions

        return HttpClient(ServerOptions(**given)), True
    if "key" in given:
        raise TypeError("key: the key of a server, so give url too")
    is_confined = any(one.startswith("--allow-root") for one in given.get("args", ()))
    by_file: bool = given.pop("by_file", not is_confined)
    return Client(ClientOptions(**given)), by_file


def close_with(owner: object, client: AnyClient) -> None:
    """Close the client once its owner does not exist any more, and the calls in flight have
    ended."""
    if isinstance(client, Client):
        # The owner may go in any thread, at any line. `threading` has locks that this thread may
        # hold; `_thread` has none.
        end = weakref.finalize(owner, _thread.start_new_thread, client.close_when_idle, ())
        end.atexit = False


def start_call(client: AnyClient, request: Request[T]) -> Call[T]:
    """Submit the job, and remove the input's temporary file when it has ended."""

    def make_result(message: Message) -> Result[T]:
        # The callback below does this too, but perhaps later than the caller expects.
        request.discard()
        return request.make_result(message)

    try:
        call = client.submit(request.job, make_result, request.on_progress)
    except BaseException:
        request.discard()
        raise
    call.add_done_callback(lambda _: request.discard())
    return call


def checked_request(
    picture: Any, output: Any, options: CallOptions, *, by_file: bool
) -> Request[Any]:
    """The request. Raises `InputError` if the picture cannot be read, and `TypeError`."""
    try:
        return request_of(picture, output, options, by_file=by_file)
    except OSError as error:
        raise local_error("input_unreadable", f"the input cannot be read: {error}") from error
    except ValueError as error:
        raise local_error("unsupported_format", str(error)) from error


class Upscaler:
    """Upscales with a daemon. The first call starts it, and it is started again if it exits. It
    ends with the context, with this object, and with this process, even if that is killed. With
    `url`, a server runs the jobs instead: calls and results are the same, and files are uploaded
    and downloaded.

    Any number of threads may use one. After a fork, the child's first call starts another daemon,
    and the parent's calls end in the child with `ForkedError`.
    """

    def __init__(self, **options: Unpack[UpscalerOptions]) -> None:
        self._client, self._by_file = client_of(options)
        close_with(self, self._client)

    def start(self) -> Status:
        """Start the daemon now, wait until it is ready, and return its status. Raises
        `DaemonGoneError` if it cannot get ready."""
        return read(Status, self._client.ready().result())

    @property
    def pid(self) -> int | None:
        """The daemon's process; None while there is none."""
        return self._client.pid

    @overload
    def upscale(
        self, picture: Picture, output: type[T], **options: Unpack[CallOptions]
    ) -> Result[T]: ...
    @overload
    def upscale(
        self, picture: Picture, output: StrPath, **options: Unpack[CallOptions]
    ) -> Result[None]: ...
    @overload
    def upscale(
        self, picture: StrPath, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[None]: ...
    @overload
    def upscale(
        self, picture: bytes | BinaryIO, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[bytes]: ...
    @overload
    def upscale(
        self, picture: Image.Image, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[Image.Image]: ...
    @overload
    def upscale(
        self, picture: Array, output: None = None, **options: Unpack[CallOptions]
    ) -> Result[Array]: ...
    def upscale(
        self, picture: Any, output: Any = None, **options: Unpack[CallOptions]
    ) -> Result[Any]:
        """Upscale one picture, and wait for it.

        picture: a path, an http(s) URL, bytes, a binary file, a Pillow image or a numpy array.
        output: a path, or a class: bytes, PIL.Image.Image or numpy.ndarray, for `result.image`.
        Default: beside the input for a path, else the input's own class. Raises `UpscaledError`. If
        another exception ends the wait, as a Ctrl-C does, the job is cancelled.
        """
        call = self._submit(picture, output, options)
        try:
            return call.result()
        except BaseException:
            call.cancel()  # no caller can: it has no effect if the job has ended
            raise

    @overload
    def submit(
        self, picture: Picture, output: type[T], **options: Unpack[CallOptions]
    ) -> Call[T]: ...
    @overload
    def submit(
        self, picture: Picture, output: StrPath, **options: Unpack[CallOptions]
    ) -> Call[None]: ...
    @overload
    def submit(
        self, picture: StrPath, output: None = None, **options: Unpack[CallOptions]
    ) -> Call[None]: ...
    @overload
    def submit(
        self, picture: bytes | BinaryIO, output: None = None, **options: Unpack[CallOptions]
    ) -> Call[bytes]: ...
    @overload
    def submit(
        self, picture: Image.Image, output: None = None, **options: Unpack[CallOptions]
    ) -> Call[Image.Image]: ...
    @overload
    def submit(
        self, picture: Array, output: None = None, **options: Unpack[CallOptions]
    ) -> Call[Array]: ...
    def submit(self, picture: Any, output: Any = None, **options: Unpack[CallOptions]) -> Call[Any]:
        """Start to upscale one picture, as `upscale` does, but do not wait. The call is a future,
        which can be cancelled, and which yields its progress."""
        return self._submit(picture, output, options)

    def submit_job(
        self, job: Job | Message, on_progress: Callable[[Progress], None] | None = None
    ) -> Call[None]:
        """Submit a job of any method, in the form of the protocol."""
        return self._client.submit(job, lambda message: Result.of(message, None), on_progress)

    def cancel_all(self) -> None:
        """Cancel every call that is open."""
        self._client.cancel_all()

    def health(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """The daemon's report. Raises `NoAnswerError` after this time, and `DaemonGoneError`."""
        return self._ask("health", timeout_s)

    def trim(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """Free the daemon's caches and its unused models. Raises as `health` does."""
        return self._ask("trim", timeout_s)

    def replay(self, job_ids: Sequence[str] | None = None) -> None:
        """Ask a daemon with a journal to send the ends of these jobs, or of all, again. They come
        to `on_message`."""
        self._client.replay(job_ids)

    def close(self) -> None:
        """Take no more jobs, let the daemon finish the jobs that it has, and end it. After
        `close_timeout_s` it gets SIGTERM, and then its process group gets SIGKILL."""
        self._client.close()

    def kill(self) -> None:
        """Kill the daemon and every process that it started. Open calls fail."""
        self._client.kill()

    def _submit(self, picture: Any, output: Any, options: CallOptions) -> Call[Any]:
        request = checked_request(picture, output, options, by_file=self._by_file)
        return start_call(self._client, request)

    def _ask(self, kind: str, timeout_s: float) -> HealthReport:
        self._client.check_may_wait()
        return read(HealthReport, self._client.ask(kind, timeout_s).result())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # After an error no caller waits for the calls in flight.
        if kind is not None and not self._client.is_idle:
            self.kill()
        else:
            self.close()
