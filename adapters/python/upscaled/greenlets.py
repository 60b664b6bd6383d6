"""The check for gevent that a call may wait."""

from __future__ import annotations

import sys


def check_greenlets() -> None:
    """Raise `RuntimeError` in a greenlet if gevent has not patched the threads: a call that waits
    there stops all greenlets."""
    gevent, monkey = sys.modules.get("gevent"), sys.modules.get("gevent.monkey")
    if gevent is None or (monkey is not None and monkey.is_module_patched("threading")):
        return
    if isinstance(gevent.getcurrent(), gevent.Greenlet):
        raise RuntimeError(
            "upscaled would stop every greenlet here: call gevent.monkey.patch_all() before "
            "anything else is imported"
        )
