"""The exit statuses of `upscaled work` and `upscaled queue`."""

EXIT_OK = 0
# A command that did not do everything.
EXIT_FAILED = 1
# Wrong options, or a queue that would lose jobs.
EXIT_USAGE = 2
# No daemon can be kept alive.
EXIT_NO_DAEMON = 3
# `upscaled queue run`: the host does not read its output any more.
EXIT_HOST_GONE = 4
# Nothing is delivered any more although jobs wait: start the machine again (EX_TEMPFAIL).
EXIT_STUCK = 75
