"""Frees memory of the engines: on the host's request, and when models have been idle."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue

from upscaled_protocol.messages import Trim
from upscaled_worker.engines import Engines
from upscaled_worker.threads import guarded, start

# How often models past their idle time are looked for.
IDLE_CHECK_S = 5.0


class Trimmer:
    """Trims in a thread of its own, because an engine may take long for it.

    `answer` is called when a request is done; `on_failure` if an exception ends the thread.
    """

    def __init__(
        self,
        engines: Engines,
        *,
        answer: Callable[[Trim], None],
        on_failure: Callable[[BaseException], None],
        clock: Callable[[], float],
    ) -> None:
        self._engines = engines
        self._answer = answer
        self._clock = clock
        self._requests: SimpleQueue[Trim | None] = SimpleQueue()
        self._thread = guarded("trim", self._serve, on_failure)
        self._next_idle_check = clock() + IDLE_CHECK_S

    def start(self) -> None:
        """Start the thread."""
        start([self._thread])

    def request(self, trim: Trim) -> None:
        """Free caches and unload every model that no job uses."""
        self._requests.put(trim)

    def finish(self) -> None:
        """Wait until every request is answered."""
        self._requests.put(None)
        self._thread.join()

    def trim_idle(self) -> None:
        """Unload idle models, if it is time to look. The main loop calls this in every turn,
        because a host that asks for health all the time must not keep a model in memory."""
        now = self._clock()
        if now >= self._next_idle_check:
            self._next_idle_check = now + IDLE_CHECK_S
            self._engines.trim(idle_only=True)

    def _serve(self) -> None:
        while (trim := self._requests.get()) is not None:
            self._engines.trim()
            self._answer(trim)
