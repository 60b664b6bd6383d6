"""The progress of pictures: two bars on a terminal; elsewhere a line from time to time."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from upscaled_cli.terminal import line_for, printable

# The time between two lines, if the stream is no terminal.
LOG_INTERVAL_S = 30.0

# Columns for the name of the picture in work. The bar and the numbers need the others.
_LEAST_NAME, _MOST_NAME = 8, 30
_LEAST_BAR = 4

# In these stages another picture may have the device.
_IDLE_STAGES = ("waiting", "running")


@dataclass
class _Picture:
    """A picture in work. began_s, began_done: the time and `done` at the start of its stage.
    told_s: the time of its last message."""

    name: str
    percent: float = 0.0
    stage: str = ""
    done: int | None = None
    total: int | None = None
    eta_s: float | None = None
    began_s: float = 0.0
    began_done: int = 0
    told_s: float = 0.0

    def take(self, message: Mapping[str, Any], now_s: float) -> None:
        done, stage = message.get("done"), str(message.get("stage", ""))
        if stage != self.stage:
            self.began_s, self.began_done = now_s, done or 0
        self.stage, self.done, self.total = stage, done, message.get("total")
        self.percent, self.eta_s = message["progress"], message.get("eta_s")
        self.told_s = now_s

    def counts(self, now_s: float) -> str:
        """A text as in "8/18, 0.6/s, 0:18 left", without unknown parts."""
        parts = []
        if self.done is not None and self.total:
            parts.append(f"{self.done}/{self.total}")
            if self.done > self.began_done and now_s > self.began_s:
                parts.append(f"{(self.done - self.began_done) / (now_s - self.began_s):.2g}/s")
        # Also at 100 %: the encoder still works then.
        if self.eta_s:
            parts.append(f"{clock_of(max(self.eta_s - (now_s - self.told_s), 0))} left")
        return ", ".join(parts)


class Progress:
    """Shows the progress. On a stream that is no terminal it prints one line per `LOG_INTERVAL_S`.

    pictures: their number. stream: by default stderr.
    """

    def __init__(
        self,
        pictures: int,
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pictures = pictures
        self._stream = stream or sys.stderr
        self._clock = clock
        self._began_s = self._logged_s = clock()
        # The time and the share at the first progress: before it, models are loaded.
        self._first: tuple[float, float] | None = None
        self._in_work: dict[str, _Picture] = {}
        self._ended = self._failed = 0
        self._bars = _Bars(pictures, self._stream) if _has_columns(self._stream) else None

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._began_s

    def starting(self) -> None:
        """The daemon is being started."""
        if self._bars is not None and not self._ended:
            self._bars.show_picture("", "starting", 0, "")

    def advance(self, job_id: str, name: str, message: Mapping[str, Any]) -> None:
        """Show a progress message."""
        picture = self._in_work.setdefault(job_id, _Picture(name))
        picture.take(message, self._clock())
        self._show()

    def tick(self) -> None:
        """Show the time that has passed since the last message."""
        if self._in_work:
            self._show()

    def end(self, job_id: str | None, *, is_failure: bool) -> None:
        """Show that a picture has ended. job_id: None if no job could be made of it."""
        self._in_work.pop(job_id or "", None)
        self._ended += 1
        self._failed += is_failure
        self._show()

    def say(self, line: str, stream: TextIO) -> None:
        """Write a line, above the bars."""
        line = line_for(stream, line)
        if self._bars is None:
            print(line, file=stream)
        else:
            self._bars.write(line, stream)
        stream.flush()

    def close(self) -> None:
        """Remove the bars."""
        if self._bars is not None:
            self._bars.close()

    def _show(self) -> None:
        now_s = self._clock()
        share = self._ended + sum(picture.percent for picture in self._in_work.values()) / 100
        if self._first is None and share > 0:
            self._first = now_s, share
        shown = self._shown()
        if self._bars is not None:
            self._bars.show_all(share, self._summary(share, now_s))
            if shown is not None:
                self._bars.show_picture(shown.name, shown.stage, shown.percent, shown.counts(now_s))
        elif now_s - self._logged_s >= LOG_INTERVAL_S:
            self._logged_s = now_s
            line = [f"{shown.name}: {shown.stage} {shown.percent:.0f} %"] if shown else []
            if self._pictures > 1:
                line.insert(0, self._summary(share, now_s))
            elif shown is not None:
                line.append(shown.counts(now_s))
            print(", ".join(filter(None, line)), file=self._stream, flush=True)

    def _shown(self) -> _Picture | None:
        """The picture to show: the first one that has the device."""
        busy = (one for one in self._in_work.values() if one.stage not in _IDLE_STAGES)
        return next(busy, next(iter(self._in_work.values()), None))

    def _summary(self, share: float, now_s: float) -> str:
        elapsed_s = now_s - self._began_s
        parts = [f"{self._ended}/{self._pictures} pictures"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._ended and elapsed_s > 0:
            parts.append(f"{self._ended / elapsed_s * 60:.3g}/min")
        if self._first is not None and self._first[1] < share < self._pictures:
            per_picture_s = (now_s - self._first[0]) / (share - self._first[1])
            parts.append(f"{clock_of(per_picture_s * (self._pictures - share))} left")
        return ", ".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Bars:
    """One bar for all pictures, if there are several, and one for the picture in work."""

    def __init__(self, pictures: int, stream: TextIO) -> None:
        from tqdm import tqdm

        self._tqdm = tqdm
        self._stream = stream
        self._all = self._new(pictures, stream, 0) if pictures > 1 else None
        self._picture = self._new(100, stream, 0 if self._all is None else 1)

    def _new(self, total: int, stream: TextIO, position: int) -> Any:
        return self._tqdm(
            total=total,
            file=stream,
            position=position,
            leave=False,
            dynamic_ncols=True,
            bar_format="{desc}",
        )

    def show_all(self, share: float, text: str) -> None:
        if self._all is not None:
            _show(self._all, "", share, text)

    def show_picture(self, name: str, stage: str, percent: float, text: str) -> None:
        columns = os.get_terminal_size(self._stream.fileno()).columns
        around = f" {stage} 100%|{' ' * _LEAST_BAR}| {text}"
        name = _short(name, min(max(columns - len(around), _LEAST_NAME), _MOST_NAME))
        _show(self._picture, f"{name} {stage}".strip(), percent, text)

    def write(self, line: str, stream: TextIO) -> None:
        self._tqdm.write(line, file=stream)

    def close(self) -> None:
        self._picture.close()
        if self._all is not None:
            self._all.close()


def _has_columns(stream: TextIO) -> bool:
    """True if it is a terminal with columns: some report none."""
    return stream.isatty() and os.get_terminal_size(stream.fileno()).columns > 0


def _show(bar: Any, lead: str, amount: float, text: str) -> None:
    bar.bar_format = f"{{desc}}{{percentage:3.0f}}%|{{bar}}| {text}"
    bar.set_description_str(f"{lead} " if lead else "", refresh=False)
    # Not `update`, which draws nothing if a bar goes back.
    bar.n = amount
    bar.refresh()


def _short(name: str, columns: int) -> str:
    """The file's name, without control characters, cut in its middle."""
    name = printable(Path(name).name)
    if len(name) <= columns:
        return name
    end = columns // 2
    return f"{name[: columns - end - 1]}…{name[-end:]}"


def clock_of(seconds: float) -> str:
    """As in 0:09, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
