"""The journal and the metrics' port, which the daemon before this one holds until it has drained.

Both are tried again. Without the port the daemon works. Without the journal it accepts no job: the
lines wait, for as long as the former daemon may take.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable

from upscaled_protocol.log import Logger
from upscaled_supervisor.ledger import Ledger
from upscaled_supervisor.options import EXIT_NO_WORKER, EXIT_USAGE, Options
from upscaled_supervisor.system import System

# The former daemon drains for its grace, which is taken to be ours, and needs time for the rest.
_WAIT_GRACES = 2


class Handover:
    """Takes both over. `serve_metrics` serves at an address; `announce_degraded` sends a status."""

    def __init__(
        self,
        options: Options,
        ledger: Ledger,
        system: System,
        log: Logger,
        *,
        serve_metrics: Callable[[str], None],
        announce_degraded: Callable[[str], None],
    ) -> None:
        self._options = options
        self._ledger = ledger
        self._log = log
        self._serve_metrics = serve_metrics
        self._announce_degraded = announce_degraded
        self._give_up_at = system.now() + _WAIT_GRACES * options.grace_s
        self._faults: dict[str, str] = {}  # what is still held, by log event
        self._needs_metrics = options.metrics_address is not None
        ledger.awaits_journal = options.journal is not None
        self.exit_status: int | None = None  # set if the daemon must exit

    @property
    def detail(self) -> str | None:
        """A sentence about what is still held; None if nothing is."""
        return "; ".join(self._faults.values()) or None

    def proceed(self, now: float) -> None:
        """Try to take over what is still held."""
        if self._needs_metrics:
            self._try_metrics()
        if self._ledger.awaits_journal and self.exit_status is None:
            self._try_journal(now)

    def _try_metrics(self) -> None:
        address = self._options.metrics_address or ""
        try:
            self._serve_metrics(address)
        except (OSError, ValueError, RuntimeError) as error:
            detail = f"cannot serve metrics on {address}: {error}"
            # A `RuntimeError`: the machine has no room for the server's thread. Once jobs may run,
            # the daemon works without the port, whatever the reason is.
            is_held = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
            if is_held or isinstance(error, RuntimeError) or "metrics_held" in self._faults:
                self._wait("metrics_held", f"{detail}; it is tried again")
            else:
                self._fail("metrics_unusable", detail, EXIT_USAGE)
        else:
            self._needs_metrics = False
            self._faults.pop("metrics_held", None)

    def _try_journal(self, now: float) -> None:
        from upscaled_supervisor.journal import Journal, JournalError, JournalHeldError

        assert self._options.journal is not None
        try:
            journal = Journal(self._options.journal)
            with contextlib.ExitStack() as failed:
                failed.callback(journal.close)
                self._ledger.restore(journal)
                failed.pop_all()
        except JournalHeldError as error:
            if now < self._give_up_at:
                self._wait("journal_held", f"{error}; no job is accepted until it is free")
            else:
                self._fail("journal_unusable", str(error), EXIT_NO_WORKER)
        except JournalError as error:
            self._fail("journal_unusable", str(error), EXIT_NO_WORKER)
        else:
            self._faults.pop("journal_held", None)

    def _wait(self, event: str, detail: str) -> None:
        if event not in self._faults:
            self._faults[event] = detail
            self._log.log("warning", event, detail=detail)
            self._announce_degraded(detail)

    def _fail(self, event: str, detail: str, exit_status: int) -> None:
        self._log.log("error", event, detail=detail)
        self.exit_status = exit_status
