"""A job's output on this machine. It is written to another name, and renamed when complete."""

from __future__ import annotations

import base64
import contextlib
import itertools
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

from upscaled.errors import UpscaledError, local_error
from upscaled.messages import Message
from upscaled_protocol.choices import FORMATS, SUFFIXES

_SUFFIXES = {f"image/{name}": suffix for name, suffix in SUFFIXES.items()}


class Destination:
    """One job's output. Raises `UpscaledError` if it cannot be written, before any work is done.

    output_format: by the suffix of `output_path`; None if the config has the format, or no path.
    """

    def __init__(self, config: Message, job_id: str) -> None:
        output, source = config.get("output_path"), config.get("image_path")
        self._job_id = job_id
        self._source = Path(source) if isinstance(source, str) else None
        self._output = Path(output) if isinstance(output, str) else None
        self._is_base64 = config.get("output_base64") is True
        # A job without a picture, such as a test partner's, may have no result.
        inputs = ("image_path", "image_base64", "image_url")
        self._has_input = any(config.get(name) is not None for name in inputs)
        for name in ("image_path", "image_base64", "output_path"):
            if config.get(name) == "":
                raise self._error("invalid_job", f"{name} is empty")
        if "\0" in f"{source}{output}":
            raise self._error("invalid_job", "a path holds a zero character")
        self.output_format: str | None = None
        if not self._is_base64:
            self._check(has_format=config.get("output_format") is not None)

    def _check(self, *, has_format: bool) -> None:
        path = self._output or self._source
        if path is None and not self._has_input:
            return
        if path is None:
            raise self._error(
                "invalid_job",
                "give output_path or output_base64, because an input that is no file has no folder",
            )
        if not path.parent.is_dir():
            raise self._error(
                "output_unwritable", f"there is no folder {path.parent}: make it first"
            )
        if self._output is None:
            return
        suffix = path.suffix.lower()
        if not has_format and suffix:
            if suffix not in FORMATS:
                raise self._error(
                    "unsupported_format",
                    f"{suffix} is not written here: use .png, .tif, .jpg, .webp or .avif, "
                    "or give output_format",
                )
            self.output_format = FORMATS[suffix]
        if path.exists():
            if not path.is_file():
                raise self._error("output_unwritable", f"{path} exists and is no ordinary file")
            if self._source is not None and self._source.exists() and path.samefile(self._source):
                raise self._error(
                    "invalid_job",
                    f"the output {path} is the input itself: give another output_path",
                )

    @property
    def is_there(self) -> bool:
        """True if the job has an output."""
        return self._is_base64 or self._output is not None or self._has_input

    def write(self, job: Message, pieces: Iterable[bytes]) -> Message:
        """Write the picture. Returns the result's field of its place. Raises `UpscaledError`.

        pieces: may raise anything but an `OSError` of their own, which would count as one of the
        output.
        """
        if self._is_base64:
            return {"output_base64": base64.b64encode(b"".join(pieces)).decode("ascii")}
        target = self._output or self._named(job)
        pending = target.with_name(f".upscaled-{uuid.uuid4()}")
        try:
            with pending.open("xb") as file:  # its close writes too
                for piece in pieces:
                    file.write(piece)
            if self._output is None:
                target = _renamed_to_free(pending, target)
            else:
                pending.replace(target)
        except UpscaledError:  # of the pieces: some are a `TimeoutError`, and so an `OSError`
            raise
        except OSError as error:
            sentence = f"the output cannot be written: {error}"
            raise self._error("output_unwritable", sentence) from error
        finally:
            with contextlib.suppress(OSError):
                pending.unlink(missing_ok=True)
        return {"output_path": os.fspath(target)}

    def _named(self, job: Message) -> Path:
        """The name that a daemon gives it, beside the input."""
        assert self._source is not None
        factor = f"{job.get('scale_factor') or 0:.2f}".rstrip("0").rstrip(".")
        suffix = _SUFFIXES.get(job.get("media_type") or "", ".png")
        return self._source.with_name(f"{self._source.stem}_{job.get('method')}_{factor}x{suffix}")

    def _error(self, code: str, sentence: str) -> UpscaledError:
        return local_error(code, sentence, self._job_id)


def _renamed_to_free(pending: Path, target: Path) -> Path:
    """Give the file a free name: photo.png, photo-2.png and so on."""
    for number in itertools.count(1):
        path = target if number == 1 else target.with_stem(f"{target.stem}-{number}")
        try:
            _take(path, pending)
        except FileExistsError:
            continue
        return path
    raise AssertionError


def _take(path: Path, pending: Path) -> None:
    """Give the file this name. Raises `FileExistsError` if another file has it."""
    try:
        path.hardlink_to(pending)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links, such as FAT. Here alone the name is an empty file's for a
        # moment.
        path.open("xb").close()
        pending.replace(path)
