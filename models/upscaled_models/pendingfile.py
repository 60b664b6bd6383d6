"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscaled_protocol.errors import ErrorCode, JobError


class PendingFile:
    """A file that has no name until `publish`: closed before, it leaves nothing behind.

    Where the file system has nameless files even a killed process leaves nothing.
    folder: a descriptor of the folder that it will be in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spare = f".upscaled-{secrets.token_hex(8)}.part"
        self._named = False
        try:
            # Held, so that it stays the same folder whatever becomes of the path to it.
            self.folder = os.open(path.parent, getattr(os, "O_PATH", 0) | os.O_DIRECTORY)
        except OSError as error:
            raise unwritable(path, error) from None
        try:
            self.file = self._open()
        except OSError as error:
            os.close(self.folder)
            raise unwritable(path, error) from None

    def _open(self) -> BinaryIO:
        try:
            flags = os.O_TMPFILE | os.O_RDWR
            descriptor = os.open(".", flags, 0o666, dir_fd=self.folder)
        except (AttributeError, OSError):  # no Linux, or a file system without nameless files
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            descriptor = os.open(self._spare, flags, 0o666, dir_fd=self.folder)
            self._named = True
        return os.fdopen(descriptor, "w+b")

    def publish(self) -> None:
        """Give the finished file its name, in place of any file that has it.

        Not synchronised to the disk: the page cache outlives every process, and a power cut may
        cost the picture, but the job's result with it.
        """
        folder, name = self.folder, self.path.name
        try:
            if not self._named:
                try:
                    self._link(name)
                except FileExistsError:  # only a rename replaces a file
                    self._link(self._spare)
                    self._named = True
            if self._named:
                os.replace(self._spare, name, src_dir_fd=folder, dst_dir_fd=folder)
                self._named = False
        except OSError as error:
            raise unwritable(self.path, error) from None

    def _link(self, name: str) -> None:
        # Only with a folder given does os.link follow the link in /proc (linkat(2)).
        descriptor = self.file.fileno()
        source = f"/proc/self/fd/{descriptor}"
        os.link(source, name, src_dir_fd=descriptor, dst_dir_fd=self.folder)

    def close(self) -> None:
        """Let go of the file, and remove it where it was not published."""
        with suppress(OSError):  # what could not be flushed failed the encoder before
            self.file.close()
        if self._named:
            with suppress(FileNotFoundError):
                os.unlink(self._spare, dir_fd=self.folder)
            self._named = False
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """A file that nobody else sees. Leaving it raises nothing of its own: what could not be
    written has been told already, and is tried once more when a file is closed.
    """
    file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


def unwritable(path: Path, error: OSError) -> JobError:
    """The error of an output that cannot be written."""
    return JobError(
        ErrorCode.OUTPUT_UNWRITABLE, f"{path} cannot be written: {error.strerror or error}"
    )
