"""For programs that wait: threads, scripts, Django, notebooks.

with upscaled.Upscaler() as up:
    result = up.upscale("in.jpg", "out.png", factor=2)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TypedDict, TypeVar, Unpack, overload

from upscaled.call import Call
from upscaled.client import ASK_TIMEOUT_S, Client
from upscaled.errors import UpscaledError, local_error
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
    """How the daemon is started and ended; or, with `url`, which server does the jobs in place of a
    daemon of one's own."""

    # Where `upscaled serve` is, as in "http://upscaler:8080". Of the options below only `attempts`,
    # `restart_delay_s`, `close_timeout_s` and `cancel_grace_s` go with it.
    url: str
    # One of the server's keys, if it has any.
    key: str
    # The daemon. Default: `upscaled run` of this installation.
    command: Sequence[str]
    # More of its arguments, as in ["--workers", "2"].
    args: Sequence[str]
    cwd: StrPath
    env: Mapping[str, str]
    # Where accepted jobs are kept, so that they outlive the daemon. One file per process.
    journal: StrPath
    # Let the daemon write its log to this process's stderr. Else it goes to the logger "upscaled".
    show_log: bool
    # Starts in a row that may fail, and daemons that may go away without accepting a job; 0: it is
    # never started again. Default: 5, from 0.2 s apart to 10 s. Of a server: tries after a
    # connection is lost; default: 8.
    attempts: int
    restart_delay_s: float
    # For the jobs in flight when the client is closed. Default: 30.
    close_timeout_s: float
    # For the daemon to end a job after a cancel or its `timeout_s`; then the call ends without it.
    # Default: 25, above the daemon's own `--cancel-grace-s`, which is 20.
    cancel_grace_s: float
    # The daemon's `--line-limit-bytes`. Default: 32 MiB.
    line_limit_bytes: int
    # Pictures in memory go to the daemon by temporary files. False: in the job's line, for a daemon
    # that does not see this machine's files. Default: False if `args` has `--allow-root`.
    by_file: bool
    # Called with every message of the daemon, in the thread that reads for all.
    on_message: Callable[[dict[str, Any]], None]


def client_of(options: UpscalerOptions) -> tuple[AnyClient, bool]:
    """The client, and whether pictures go by file. Raises `TypeError`."""
    given: dict[str, Any] = {**options}
    if "url" in given:
        if daemons := sorted(set(given) - _SERVER_OPTIONS):
            raise TypeError(f"{', '.join(daemons)}: for a daemon of one's own, not with url")
        from upscaled.http.client import HttpClient, ServerOptions

        return HttpClient(ServerOptions(**given)), True
    if "key" in given:
        raise TypeError("key: for a server, so give url too")
    is_confined = any(one.startswith("--allow-root") for one in given.get("args", ()))
    by_file: bool = given.pop("by_file", not is_confined)
    return Client(ClientOptions(**given)), by_file


def start_call(client: AnyClient, request: Request[T]) -> Call[T]:
    """Submit the job, and remove the input's temporary file when it has ended."""

    def make_result(message: Message) -> Result[T]:
        # By the call's own callback too, but that may come later than the caller.
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
        raise _input_error("input_unreadable", f"the input cannot be read: {error}") from error
    except ValueError as error:
        raise _input_error("unsupported_format", str(error)) from error


def _input_error(code: str, sentence: str) -> UpscaledError:
    return local_error(code, sentence)


class Upscaler:
    """A daemon of one's own. It is started by the first call, and again if it dies. It ends when
    the context is left, and with this process, however that ends. With `url`, a server does the
    jobs instead: the same calls and results, and files are uploaded and downloaded.

    Any number of threads may use one. After a fork the child's first call starts a daemon of its
    own, and the parent's calls end there with `ForkedError`.
    """

    def __init__(self, **options: Unpack[UpscalerOptions]) -> None:
        self._client, self._by_file = client_of(options)

    def start(self) -> Status:
        """Start the daemon now, and wait until it is ready: what it says of itself then. Raises
        `DaemonGoneError` if it cannot get there."""
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
        Default: beside the input for a path, else the input's own class. Raises `UpscaledError`.
        """
        return self._submit(picture, output, options).result()

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
        """Begin to upscale one picture, as `upscale` does, and do not wait: the call is a future,
        which can be cancelled, and yields its progress."""
        return self._submit(picture, output, options)

    def submit_job(
        self, job: Job | Message, on_progress: Callable[[Progress], None] | None = None
    ) -> Call[None]:
        """Submit a job as the protocol has it, of any method."""
        return self._client.submit(job, lambda message: Result.of(message, None), on_progress)

    def cancel_all(self) -> None:
        """Cancel every call that is open."""
        self._client.cancel_all()

    def health(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """How the daemon is. Raises `NoAnswerError` after this time, and `DaemonGoneError`."""
        return self._ask("health", timeout_s)

    def trim(self, timeout_s: float = ASK_TIMEOUT_S) -> HealthReport:
        """Have it free its caches and the models that no job is using. Raises as `health` does."""
        return self._ask("trim", timeout_s)

    def replay(self, job_ids: Sequence[str] | None = None) -> None:
        """Have a daemon with a journal say again how these jobs ended, or all: see `on_message`."""
        self._client.replay(job_ids)

    def close(self) -> None:
        """Take no more jobs, let the daemon finish those that it has, and end it: after
        `close_timeout_s` by SIGTERM, and then by SIGKILL of its process group."""
        self._client.close()

    def kill(self) -> None:
        """End the daemon now, with every process that it started. Open calls fail."""
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
