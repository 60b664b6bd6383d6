"""Exit statuses of the commands for people. `upscaled --help` lists them."""

OK = 0
FAILED = 1  # something failed
USAGE = 2  # the same number as argparse
INTERRUPTED = 130  # 128 + SIGINT, as shells count
