"""Ports for servers that are started on a number."""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import socket

# Below the ports of sockets that ask for none in particular (from 32768 on Linux, from 49152 on
# macOS), because one of those may be bound between the search and the server's start. Each process
# of a test run has a part of its own, for the same reason.
_FIRST, _PARTS, _PART = 20_000, 12, 1000
_OURS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS
# Another run may be under way, so not from the beginning.
_numbers = itertools.count(secrets.randbelow(_PART))


def free_port() -> int:
    """One of 127.0.0.1 that nothing uses."""
    for number in _numbers:
        port = _FIRST + _OURS * _PART + number % _PART
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return port
    raise AssertionError
