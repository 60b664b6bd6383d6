"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from upscaled_imaging.freename import numbered, rename_to_free
from upscaled_protocol.attributes import get_attribute, set_attribute
from upscaled_protocol.errors import ErrorCode, JobError

# The name of a file attribute that holds which acceptance of a job made the file.
_MARK = "user.upscaled.accepted_as"


class PendingFile:
    """A file that has no name until it is published. Closed before that, it leaves nothing behind.

    If the file system has nameless files, a killed process leaves nothing behind either.
    folder: a descriptor of the folder that the file will be in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._spare = f".upscaled-{secrets.token_hex(8)}.part"
        self._named = False
        try:
            # Kept open, so that it stays the same folder if its path changes.
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
            descriptor = _open_nameless(self.folder)
        except OSError:  # not Linux, or a file system without nameless files
            flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
            descriptor = os.open(self._spare, flags, 0o666, dir_fd=self.folder)
            self._named = True
        return os.fdopen(descriptor, "w+b")

    def publish(self) -> Path:
        """Give the finished file its name, in place of any file that has it.

        The file is not synchronised to the disk. A killed process loses nothing, because the page
        cache survives it. A power cut may lose the picture, but it loses the job's result as well.
        """
        try:
            self._replace(self.path.name)
        except OSError as error:
            raise unwritable(self.path, error) from None
        return self.path

    def publish_new(self) -> bool:
        """Give the finished file its name; False if another file has it."""
        try:
            return not self._is_taken(self.path.name) and self._take(self.path.name)
        except OSError as error:
            raise unwritable(self.path, error) from None

    def publish_numbered(self, mark: str | None) -> Path:
        """Give the finished file its name, or if that is taken, the first free one with a number.

        It replaces no other file, except one that carries the same `mark`: an earlier run of the
        same job wrote that file, and was killed before it could report the result. If the file
        system cannot store marks, the job gets a second file then. None: no mark.
        """
        try:
            if mark is not None:
                set_attribute(self.file.fileno(), _MARK, mark.encode())
            limit = os.fpathconf(self.folder, "PC_NAME_MAX")
            for name in numbered(self.path.name, limit):
                # Checked first, because a check is much faster than an attempt.
                if not self._is_taken(name):
                    if self._take(name):
                        return self.path.with_name(name)
                elif mark is not None and self._mark_of(name) == mark.encode():
                    self._replace(name)
                    return self.path.with_name(name)
        except OSError as error:
            raise unwritable(self.path, error) from None
        raise AssertionError("there is always a next number")

    def _replace(self, name: str) -> None:
        if not self._named:
            try:
                self._link(name)
            except FileExistsError:  # only a rename replaces a file
                self._link(self._spare)
                self._named = True
        if self._named:
            os.replace(self._spare, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
            self._named = False

    def _take(self, name: str) -> bool:
        """Give the file this name; False if another file has it."""
        try:
            if self._named:
                rename_to_free(self.folder, self._spare, name)
                self._named = False
            else:
                self._link(name)
        except FileExistsError:
            return False
        return True

    def _is_taken(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def _mark_of(self, name: str) -> bytes | None:
        return get_attribute(f"/proc/self/fd/{self.folder}/{name}", _MARK)

    def _link(self, name: str) -> None:
        # os.link follows the link in /proc only if a folder is given (linkat(2)).
        descriptor = self.file.fileno()
        source = f"/proc/self/fd/{descriptor}"
        os.link(source, name, src_dir_fd=descriptor, dst_dir_fd=self.folder)

    def close(self) -> None:
        """Close the file, and remove it if it was not published."""
        with suppress(OSError):  # the encoder has reported a failed flush already
            self.file.close()
        if self._named:
            with suppress(FileNotFoundError):
                os.unlink(self._spare, dir_fd=self.folder)
            self._named = False
        if self.folder >= 0:
            os.close(self.folder)
            self.folder = -1


def _open_nameless(folder: int) -> int:
    if hasattr(os, "O_TMPFILE"):
        return os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=folder)
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """A file without a name.

    Leaving the context raises no error of its own: closing repeats a failed write, which has been
    reported already.
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
