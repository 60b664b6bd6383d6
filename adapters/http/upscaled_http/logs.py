"""The log: JSON lines, or text, on stdout, in a file that rotates, or both.

A thread writes them. If stdout is not read, lines are dropped and counted, and the server does not
wait.

A record may have `fields` beside its message. Of an exception the log has the type and the stack as
module:line: no path of the machine, and no value that the exception's text may quote.
"""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import Any

from upscaled_http.config import LoggingSettings

# A day of a busy server; with the old ones 60 MB.
ROTATE_BYTES = 10 * 1024 * 1024
OLD_FILES = 5

# The innermost frames of an exception's stack.
_FRAMES = 8

# Lines that may wait for a reader: some megabytes.
_WAITING_LINES = 10_000
# Waiting lines that are written together.
_LINES_AT_ONCE = 100
# The longest wait for a slow reader at the end.
_FLUSH_S = 2.0


def configure_logging(settings: LoggingSettings) -> None:
    """Configure all loggers of this process. Raises `OSError` if the file cannot be opened."""
    handlers: list[logging.Handler] = []
    if settings.output != "file":
        handlers.append(logging.StreamHandler(sys.stdout))
    if settings.output != "stdout":
        assert settings.file_path is not None
        handlers.append(
            RotatingFileHandler(
                settings.file_path, maxBytes=ROTATE_BYTES, backupCount=OLD_FILES, encoding="utf-8"
            )
        )
    logging.raiseExceptions = False  # a full disk is no reason to print tracebacks
    background = BackgroundHandler(handlers)
    background.setFormatter(JsonLines() if settings.format == "json" else TextLines())
    logging.basicConfig(level=logging.WARNING, handlers=[background], force=True)
    for name in ("upscaled", "upscaled_http"):
        logging.getLogger(name).setLevel(settings.level.upper())


def flush_log() -> None:
    """Wait until the log is written, at most for 2 s. `logging.shutdown` would wait for a reader of
    stdout without a limit."""
    for handler in logging.getLogger().handlers:
        handler.flush()


class BackgroundHandler(logging.Handler):
    """Hands lines to a thread that writes them to other handlers."""

    def __init__(self, targets: Sequence[logging.Handler]) -> None:
        super().__init__()
        self._targets = targets
        self._lines: queue.Queue[str] = queue.Queue(_WAITING_LINES)
        self._dropped = 0
        self._counting = threading.Lock()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record now, because its values may change; write it later."""
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            with self._counting:
                self._dropped += 1

    def flush(self) -> None:
        """Wait until all is written, at most for 2 s."""
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(
                lambda: not self._lines.unfinished_tasks, timeout=_FLUSH_S
            )

    def _write(self) -> None:
        while True:
            lines = [self._lines.get()]
            with suppress(queue.Empty):
                while len(lines) < _LINES_AT_ONCE:
                    lines.append(self._lines.get_nowait())
            self._write_lines(lines)
            with self._counting:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                self._write_lines([self.format(_dropped_record(dropped))])
            for _ in lines:
                self._lines.task_done()

    def _write_lines(self, lines: Sequence[str]) -> None:
        record = logging.makeLogRecord({"msg": "\n".join(lines)})
        for target in self._targets:
            target.handle(record)


def _dropped_record(count: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {
            "name": __name__,
            "levelname": "WARNING",
            "msg": "lines were dropped, because the log was not read",
            "fields": {"lines": count},
        }
    )


class JsonLines(logging.Formatter):
    """One JSON object per record."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return json.dumps({"time": _time(record), **_content(record)}, default=str)


class TextLines(logging.Formatter):
    """For people: time, level, message, fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        content = _content(record)
        level, message = content.pop("level"), content.pop("message")
        content.pop("logger")
        fields = "".join(
            f" {name}={value if isinstance(value, str | int | float) else json.dumps(value)}"
            for name, value in content.items()
            if value is not None
        )
        return f"{_time(record)} {level} {message}{fields}".replace("\n", "\\n")


def _content(record: logging.LogRecord) -> dict[str, Any]:
    content: dict[str, Any] = {
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage().strip(),
        **getattr(record, "fields", {}),
    }
    if record.exc_info and record.exc_info[0] is not None:
        kind, _, trace = record.exc_info
        content["exception"] = kind.__name__
        content["at"] = [
            f"{frame.f_globals.get('__name__', '?')}:{line}"
            for frame, line in list(traceback.walk_tb(trace))[-_FRAMES:]
        ]
    return content


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
