"""The log: JSON lines, or text, on stdout, in a file that rotates, or both.

A record of ours may have `fields` beside its message. A traceback becomes the exception's type and
the places in our code and that of libraries, as module:line: no path of the machine, and no value
that an exception's text may quote.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import Any

from upscaled_http.config import LoggingSettings

# A day of a busy server; with the old ones 60 MB.
ROTATE_BYTES = 10 * 1024 * 1024
OLD_FILES = 5

# Frames of an exception, the innermost ones.
_FRAMES = 8


def configure_logging(settings: LoggingSettings) -> None:
    """Send every logger of this process there. Raises `OSError` if the file cannot be opened."""
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
    formatter = JsonLines() if settings.format == "json" else TextLines()
    for handler in handlers:
        handler.setFormatter(formatter)
    logging.basicConfig(level=logging.WARNING, handlers=handlers, force=True)
    for name in ("upscaled", "upscaled_http"):
        logging.getLogger(name).setLevel(settings.level.upper())


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
