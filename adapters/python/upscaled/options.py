"""The options of the client that starts a daemon; see `UpscalerOptions`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from upscaled_protocol.lines import DEFAULT_LINE_LIMIT_BYTES

if TYPE_CHECKING:
    from upscaled.call import Call

StrPath = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class ClientOptions:
    """How the daemon is started and ended, and the callbacks.

    on_settled: called with each ended call, after the call's own callbacks.
    """

    command: Sequence[str] | None = None
    args: Sequence[str] = ()
    cwd: StrPath | None = None
    env: Mapping[str, str] | None = None
    journal: StrPath | None = None
    show_log: bool = False
    attempts: int = 5
    restart_delay_s: float = 0.2
    close_timeout_s: float = 30.0
    cancel_grace_s: float = 25.0
    line_limit_bytes: int = DEFAULT_LINE_LIMIT_BYTES
    on_message: Callable[[dict[str, Any]], None] | None = None
    on_settled: Callable[[Call[Any]], None] | None = None
