"""`upscaled serve`: its command line, and the start of the server."""

from __future__ import annotations

import argparse
import faulthandler
import os
import resource
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from upscaled_protocol.optionvalues import given_path

if TYPE_CHECKING:
    from upscaled_http.config import Settings

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

# Open files beside connections and zips: the stores, results that are sent, the daemon's pipes.
_SPARE_FILES = 256

_EXAMPLES = """\
A setting is taken from these options, else from UPSCALED_<SECTION>_<KEY> in the environment, else
from the file. `--print-config` shows all settings.

examples:
  upscaled serve                               # the page is at http://127.0.0.1:8080
  upscaled serve --port 0                      # any free port
  upscaled serve --queue redis://redis:6379/0  # in front of many machines, see docs/scale.md
  upscaled serve --idle-exit-s 600             # for a machine that is paid per minute
  UPSCALED_SERVER_PORT=3000 upscaled serve --print-config
  upscaled serve --new-key phone >> keys       # shows the key on stderr, once
  upscaled serve --config serve.yaml -- --stall-timeout-s 300
  UPSCALED_AUTH_KEYS_FILE=keys upscaled serve --host 0.0.0.0

SIGTERM lets running jobs end, then the server exits. A second signal ends it at once. Jobs that
have not ended continue at the next start. SIGHUP replaces the workers and loses no job.

exit status: 0 it was stopped, 1 the port is taken or something else failed, 2 wrong usage or
settings.
"""


def main(argv: Sequence[str]) -> int:
    """Serve until a signal; the exit status."""
    from upscaled_queue.options import cut_daemon_options

    arguments, daemon_arguments = cut_daemon_options(argv)
    options = parser().parse_args(arguments)
    if options.new_key is not None:
        return _print_new_key(options.new_key)
    try:
        from upscaled_http.sources import ConfigError, Given, load, printed

        flags = {
            path: Given(flag, value)
            for flag, path, value in (
                ("--host", "server.host", options.host),
                ("--port", "server.port", options.port),
                ("--data-dir", "storage.data_dir", options.data_dir),
                ("--queue", "queue.url", options.queue),
                ("--idle-exit-s", "server.idle_exit_s", options.idle_exit_s),
                ("--", "workers.args", daemon_arguments or None),
            )
            if value is not None
        }
        try:
            settings = load(os.environ, options.config, flags)
        except ConfigError as error:
            print(error, file=sys.stderr)
            return EXIT_USAGE
        if options.print_config:
            print(printed(settings), end="")
            return EXIT_OK
        return _serve(settings)
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module.startswith("upscaled"):
            raise
        print(
            f"upscaled serve: the Python module {module} is missing: pip install 'upscaled[http]'",
            file=sys.stderr,
        )
        return EXIT_FAILED


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled serve",
        usage="%(prog)s [--help] [option ...] [-- option of `upscaled run` ...]",
        description="Serve an HTTP API and a page that upscale pictures.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    arguments.add_argument("--config", type=given_path, metavar="FILE", help="settings in YAML")
    arguments.add_argument("--host", help="the address to listen at (default: 127.0.0.1)")
    arguments.add_argument("--port", help="default: 8080; 0: any free port")
    arguments.add_argument(
        "--data-dir",
        type=given_path,
        metavar="DIR",
        help="the folder of uploads, results and records (default: ./data)",
    )
    arguments.add_argument(
        "--idle-exit-s", metavar="S", help="exit with status 0 after S seconds without any job"
    )
    arguments.add_argument(
        "--queue", metavar="URL", help="a queue, whose machines do the jobs: redis://, bullmq://, …"
    )
    arguments.add_argument(
        "--print-config", action="store_true", help="print all settings as YAML, and exit"
    )
    arguments.add_argument(
        "--new-key",
        metavar="KEY_NAME",
        help="print a line for a keys file, and its key on stderr, and exit",
    )
    return arguments


def _print_new_key(name: str) -> int:
    from upscaled_http.keys import new_key

    try:
        text, key = new_key(name)
    except ValueError as error:
        print(f"upscaled serve: --new-key: {error}", file=sys.stderr)
        return EXIT_USAGE
    print(key.line())
    print(f"The key, which is not shown again: {text}", file=sys.stderr)
    return EXIT_OK


def _serve(settings: Settings) -> int:
    from upscaled_http.app import create_app
    from upscaled_http.logs import configure_logging
    from upscaled_http.notify import Notifier
    from upscaled_http.registry import RegistryError
    from upscaled_http.server import Server, open_sockets, url_of
    from upscaled_http.service import Service
    from upscaled_http.storage import StorageError

    # If the server hangs, SIGABRT ends it: this then writes the stack of each thread.
    faulthandler.enable()
    # Before the daemon's environment is copied: systemd would take its messages for ours.
    notifier = Notifier(os.environ)
    _allow_connections(settings.server.max_connections)
    try:
        configure_logging(settings.logging)
        sockets = open_sockets(settings.server.host, settings.server.port)
    except OSError as error:
        place = f"{settings.server.host} port {settings.server.port}"
        what = "logging.file_path" if error.filename else place
        print(f"upscaled serve: {what} cannot be used: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED

    def report_open() -> None:
        url = url_of(sockets[0])
        shown = "the page is at" if settings.features.page else "the API is at"
        print(f"upscaled serve: {shown} {url}/", file=sys.stderr)
        if not (settings.auth.keys or settings.server.is_loopback):
            print(
                "upscaled serve: other machines can reach it, and no keys are set", file=sys.stderr
            )

    service = Service(settings)
    app = create_app(settings, service)
    fault: object = None
    try:
        Server(app, settings.server, notifier, report_open).run(sockets)
        fault = service.fault
    except (StorageError, RegistryError) as error:
        fault = error
    finally:
        for opened in sockets:
            opened.close()
    if fault is None:
        return EXIT_OK
    print(f"upscaled serve: {fault}", file=sys.stderr)
    return EXIT_USAGE


def _allow_connections(count: int) -> None:
    """Raise this process's limit of open files as far as it may go: shells often set 1024."""
    from upscaled_http.archives import MAX_OPEN_FILES

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + MAX_OPEN_FILES + _SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        print(
            f"upscaled serve: this process may open {hard} files, and {count} connections "
            f"(server.max_connections) need {wanted}: raise `ulimit -Hn`",
            file=sys.stderr,
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
