"""Exit statuses of the commands that a person runs. `upscaled --help` lists them."""

OK = 0
FAILED = 1  # something was asked for and did not come about
USAGE = 2  # the same number as argparse
INTERRUPTED = 130  # 128 + SIGINT, as shells count
