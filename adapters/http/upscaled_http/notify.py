"""Messages to systemd (sd_notify), if it has started this process as `Type=notify`."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping


class Notifier:
    """Sends states to NOTIFY_SOCKET. Without one it does nothing."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Removes the variables from `environ`, because they are not for child processes."""
        path = environ.pop("NOTIFY_SOCKET", "")
        # `@` stands for the abstract namespace, whose addresses begin with a zero byte.
        self._address = f"\0{path[1:]}" if path.startswith("@") else path
        interval_us = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "") or str(os.getpid())
        is_watched = bool(path) and interval_us.isdecimal() and pid == str(os.getpid())
        # Half of the time after which systemd kills this process.
        self.watchdog_s = int(interval_us) / 2e6 if is_watched else None
        self._due = 0.0

    def ready(self, status: str) -> None:
        """The port is open."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """No more jobs are taken."""
        self._send("STOPPING=1\nSTATUS=Waiting for the running jobs")

    def feed_watchdog(self, now: float) -> None:
        """Call it often, from the event loop that the watchdog watches. now: monotonic."""
        if self.watchdog_s is not None and now >= self._due:
            self._due = now + self.watchdog_s
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        # The listener may have exited: that does not stop the server.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto(state.encode(), self._address)
