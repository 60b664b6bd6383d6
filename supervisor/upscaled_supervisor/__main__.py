"""`upscaled run`: supervised workers on stdio."""

from upscaled_protocol.processtree import block_hangups
from upscaled_protocol.stdio import claim_stdio
from upscaled_protocol.utf8 import require_utf8

if __name__ == "__main__":
    block_hangups()
    require_utf8()
    # First of all: from here on no import, print or child process can reach the host's wire.
    _wire = claim_stdio()

import gc
import sys
from collections.abc import Sequence

from upscaled_protocol.log import Logger
from upscaled_protocol.stdio import Wire
from upscaled_supervisor.options import read_options


def main(argv: Sequence[str] | None = None, wire: Wire | None = None) -> int:
    """Serve until the host is done; the exit status, as `upscaled run --help` lists them."""
    options = read_options(argv)
    wire = wire or claim_stdio()
    log = Logger(component="supervisor")
    from upscaled_supervisor.loop import Supervisor
    from upscaled_supervisor.poller import Poller
    from upscaled_supervisor.system import System

    supervisor = Supervisor(wire, options, log, System(), Poller())
    gc.freeze()  # what was made so far is kept to the end, so collections need not visit it
    return supervisor.run()


if __name__ == "__main__":
    sys.exit(main(wire=_wire))
