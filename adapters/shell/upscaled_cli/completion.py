"""`upscaled completion SHELL`: a script by which the shell completes our command lines."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from upscaled_cli import exits
from upscaled_cli.__main__ import SUBCOMMANDS

_EXAMPLES = """examples:
  upscaled completion bash > ~/.local/share/bash-completion/completions/upscaled
  upscaled completion zsh > ~/.zfunc/_upscaled

exit status: 0 done, 1 it could not be written, 2 wrong usage.
"""

# Whose parser is not beside its `main`.
_PARSERS = {"run": "upscaled_supervisor.options"}


def main(argv: Sequence[str]) -> int:
    """Print the script; the exit status."""
    options = parser().parse_args(argv)
    import shtab

    print(shtab.complete(_whole_parser(), shell=options.shell))
    return exits.OK


def _whole_parser() -> argparse.ArgumentParser:
    """The command with all its subcommands, which are parsed apart from each other otherwise."""
    whole = argparse.ArgumentParser(prog="upscaled")
    whole.add_argument("--version", action="store_true", help="print the version")
    subcommands = whole.add_subparsers()
    for name, subcommand in SUBCOMMANDS.items():
        module = import_module(_PARSERS.get(name, subcommand.module))
        # One without a parser of its own is completed by its name alone.
        parents = [module.parser()] if hasattr(module, "parser") else []
        subcommands.add_parser(name, parents=parents, add_help=False, help=subcommand.summary)
    return whole


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled completion",
        description="Print a completion script.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return arguments
