"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from upscaled_protocol.errors import ErrorCode, JobError


class PendingFile:
    """A file that has no name until `publish`: closed before, it leaves nothing behind.

    Where the file system has nameless files even a killed process leaves nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(f".upscaled-{secrets.token_hex(8)}.part")
        self._named = False
        try:
            self.file = self._open()
        except OSError as error:
            raise unwritable(path, error) from None

    def _open(self) -> BinaryIO:
        try:
            descriptor = os.open(self._path.parent, os.O_TMPFILE | os.O_RDWR, 0o666)
        except (AttributeError, OSError):  # no Linux, or a file system without nameless files
            descriptor = os.open(self._spare, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
            self._named = True
        return os.fdopen(descriptor, "w+b")

    def publish(self) -> None:
        """Give the finished file its name, in place of any file that has it.

        Not synchronised to the disk: the page cache outlives every process, and a power cut may
        cost the picture, but the job's result with it.
        """
        try:
            if not self._named:
                try:
                    self._link(self._path)
                except FileExistsError:  # only a rename replaces a file
                    self._link(self._spare)
                    self._named = True
            if self._named:
                self._spare.replace(self._path)
                self._named = False
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _link(self, path: Path) -> None:
        # Only with a folder given does os.link follow the link in /proc (linkat(2)).
        descriptor = self.file.fileno()
        os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor)

    def close(self) -> None:
        """Let go of the file, and remove it where it was not published."""
        with suppress(OSError):  # what could not be flushed failed the encoder before
            self.file.close()
        if self._named:
            self._spare.unlink(missing_ok=True)


def unwritable(path: Path, error: OSError) -> JobError:
    """The error of an output that cannot be written."""
    return JobError(
        ErrorCode.OUTPUT_UNWRITABLE, f"{path} cannot be written: {error.strerror or error}"
    )
