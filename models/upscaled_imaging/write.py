"""Rows of pixels to a file, encoded in a separate thread while the engine computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Condition, Thread

import numpy as np

from upscaled_imaging.avif import write_avif
from upscaled_imaging.destinations import PendingOutput, Written
from upscaled_imaging.encodetime import expected_s, keep_encode_time
from upscaled_imaging.fit import fitted
from upscaled_imaging.jpeg import write_jpeg
from upscaled_imaging.leftbehind import LOOK_S, LeftBehind
from upscaled_imaging.output import EIGHT_BITS, Output
from upscaled_imaging.png import write_png
from upscaled_imaging.rows import Picture, on_white
from upscaled_imaging.tiff import write_tiff
from upscaled_imaging.webp import write_webp
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

# Pixels that may wait for the encoder, a few bands of a usual picture. Beyond it `write` waits.
_QUEUE_BYTES = 16 * 1024 * 1024
# The time allowed to encode a whole picture: a quarter of a gigapixel of AVIF takes minutes.
_ENCODE_BUDGET_S = 1800.0
# Formats whose encoders need the whole picture.
_WHOLE = ("webp", "avif")
_LOSSY = {"jpeg": write_jpeg, "webp": write_webp, "avif": write_avif}

# An encoder that waits for rows stops at once; one that has all rows cannot be interrupted.
_left_behind = LeftBehind(allowed=0)


class _AbandonedError(Exception):
    """Raised in the encoder's thread to stop it: the sink was abandoned."""


class Sink:
    """Takes a picture's rows from the top down; `commit` makes the file."""

    def __init__(
        self,
        output: Output,
        pending: PendingOutput,
        *,
        native: Size,
        bands: int,
        bits: int,
        in_turns: bool,
    ) -> None:
        self._output = output
        # Only PNG's encoder uses all processors; the others leave room for the engine.
        self._in_turns = in_turns and output.format == "png"
        self._file = pending.file
        self._publish = pending.publish
        self._native = native
        self._bands = bands
        self._bits = bits
        self._changed = Condition()
        self._queue: deque[np.ndarray] = deque()
        self._queued_bytes = 0
        self._encoding = False
        self._rows_due = native.height
        self._abandoned = False
        self._failure: BaseException | None = None
        self._encoder: Thread | None = None

    @property
    def tail_s(self) -> float:
        """The expected seconds of encoding after the last row; 0 if unknown."""
        size = self._output.plan.output
        return expected_s(self._output.format, size.width * size.height)

    def write(self, rows: np.ndarray) -> None:
        """Take the next rows: (h, native width, bands), uint8 or uint16 by `bits`.

        The array is kept, not copied: do not change it afterwards. Waits while the encoder's queue
        is full, and with `in_turns` until these rows are encoded. Raises `JobError` (cancelled),
        and the encoder's error, as a rule `JobError` (output_unwritable).
        """
        expected = (self._native.width, self._bands, f"uint{self._bits}")
        if (*rows.shape[1:], rows.dtype.name) != expected or len(rows) > self._rows_due:
            raise ValueError(
                f"got {rows.shape} of {rows.dtype}, but {self._rows_due} rows of {expected} "
                "were due"
            )
        self._check_cancelled()  # the only check of jobs without a network
        if self._encoder is None:
            self._encoder = Thread(target=self._encode, name="encoder", daemon=True)
            self._encoder.start()
        with self._changed:
            self._wait_until(
                lambda: not self._queue or self._queued_bytes + rows.nbytes <= _QUEUE_BYTES
            )
            self._queue.append(rows)
            self._queued_bytes += rows.nbytes
            self._rows_due -= len(rows)
            self._changed.notify_all()
            if self._in_turns:
                self._wait_until(lambda: not self._queue and not self._encoding)

    def commit(self) -> Written:
        """Wait for the encoder and hand the finished file over to its destination.

        Raises the encoder's error, `JobError` (cancelled, output_unwritable), and `ValueError` if
        rows are missing.
        """
        if self._rows_due:
            raise ValueError(f"{self._rows_due} rows are missing")
        self._wait_for_encoder()
        if self._failure is not None:
            raise self._failure
        return self._publish()

    def abandon(self) -> None:
        """Stop the encoder if it has not finished."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        if self._encoder is not None:
            _left_behind.end(self._encoder)
        # Its traceback refers to this object: only Python's collector would free such a cycle.
        self._failure = None

    def _wait_for_encoder(self) -> None:
        if self._encoder is None:
            return
        if self._output.context is not None:
            self._output.context.progress(
                100, "encode", budget_s=_ENCODE_BUDGET_S, tail_s=self.tail_s
            )
        start = time.perf_counter()
        while self._encoder.is_alive():
            self._encoder.join(LOOK_S)
            self._check_cancelled()
        size = self._output.plan.output
        keep_encode_time(self._output.format, size.width * size.height, time.perf_counter() - start)

    def _wait_until(self, ready: Callable[[], bool]) -> None:
        while not self._changed.wait_for(lambda: self._failure or ready(), LOOK_S):
            self._check_cancelled()
        if self._failure is not None:
            raise self._failure

    def _check_cancelled(self) -> None:
        if self._output.context is not None:
            self._output.context.check_cancelled()

    def _received(self) -> Iterator[np.ndarray]:
        rows_due = self._native.height
        while rows_due:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._abandoned)
                if self._abandoned:
                    raise _AbandonedError
                rows = self._queue.popleft()
                self._queued_bytes -= rows.nbytes
                self._encoding = True
                self._changed.notify_all()
            rows_due -= len(rows)
            yield rows
            with self._changed:
                self._encoding = False
                self._changed.notify_all()

    def _encode(self) -> None:
        try:
            if self._output.format in _WHOLE:
                _left_behind.wait()
            received = self._received()
            self._encode_rows(received)
            for _ in received:
                pass  # rows below a crop, which the engine still has to write
            self._file.flush()
        except _AbandonedError:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again in the engine's thread
            with self._changed:
                # Not kept after an abandon: it is not read, and its traceback refers to this sink.
                self._failure = None if self._abandoned else _as_job_error(error)
                self._changed.notify_all()

    def _encode_rows(self, rows: Iterator[np.ndarray]) -> None:
        plan, kind = self._output.plan, self._output.format
        bands, bits = self._bands, 8 if kind in EIGHT_BITS else self._bits
        rows = fitted(rows, plan, native=self._native, native_bits=self._bits, bits=bits)
        if kind == "jpeg" and bands in (2, 4):
            rows, bands = on_white(rows), bands - 1
        picture = Picture(plan.output.width, plan.output.height, bands, bits)
        metadata, quality = self._output.metadata, self._output.quality
        if kind == "png":
            write_png(rows, self._file, picture, metadata)
        elif kind == "tiff":
            write_tiff(rows, self._file, picture, metadata)
        else:
            _LOSSY[kind](rows, self._file, picture, metadata, quality)


def _as_job_error(error: BaseException) -> BaseException:
    if isinstance(error, OSError):
        return JobError(
            ErrorCode.OUTPUT_UNWRITABLE, f"the output cannot be written: {error.strerror or error}"
        )
    return error


@contextmanager
def open_sink(
    output: Output, native: Size, bands: int, bits: int, *, in_turns: bool = False
) -> Iterator[Sink]:
    """Open a sink for rows of the engine's `native` size, which it resamples to the plan's sizes.

    bands: 1 to 4 as in `Source`; bits: 8 or 16. in_turns: whether engine and encoder share the
    processors, and so should not compute at the same time. Leaving the context without `commit`
    leaves no file. Raises `JobError` (output_unwritable, path_not_allowed).
    """
    with ExitStack() as held:
        pending = held.enter_context(output.destination.open())
        sink = Sink(output, pending, native=native, bands=bands, bits=bits, in_turns=in_turns)
        held.callback(sink.abandon)
        yield sink
