"""A pipe that ends the main loop's wait."""

from __future__ import annotations

import os
from contextlib import suppress

from upscaled_protocol.lines import READ_SIZE_BYTES


class Wakeup:
    """`fd` is readable after `wake`, which any thread and any signal handler may call."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()
        os.set_blocking(self._write_fd, False)

    def wake(self) -> None:
        """End the wait. Never blocks: a pipe that is full ends the wait anyway."""
        with suppress(BlockingIOError):
            os.write(self._write_fd, b"\n")

    def clear(self) -> None:
        """Take note of the calls so far. Call it only if `fd` is readable."""
        os.read(self.fd, READ_SIZE_BYTES)
