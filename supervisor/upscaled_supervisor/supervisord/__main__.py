"""`python -m upscaled_supervisor.supervisord`: see `pid1`."""

import sys

from upscaled_supervisor.supervisord.pid1 import main

sys.exit(main())
