"""`upscaled completion SHELL`: prints a script with which the shell completes command lines.

At each Tab the script runs `upscaled completion --words WORD...`, so it always offers what this
release and this model folder have. The shell itself completes file names.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from upscaled_cli import exits

_EXAMPLES = """examples:
  upscaled completion bash > ~/.local/share/bash-completion/completions/upscaled
  upscaled completion fish > ~/.config/fish/completions/upscaled.fish
  upscaled completion zsh > ~/.zfunc/_upscaled    # ~/.zfunc must be in fpath before compinit
  source <(upscaled completion bash)              # only for this shell

exit status: 0 done, 1 it could not be written, 2 wrong usage.
"""


def main(argv: Sequence[str]) -> int:
    """Print the script, or with `--words` the next words; the exit status."""
    if argv[:1] == ["--words"]:
        from upscaled_cli.candidates import candidates

        for line in candidates(argv[1:]).lines():
            print(line)
        return exits.OK
    if argv[:1] == ["--line"]:  # tcsh gives no list of words
        from upscaled_cli.candidates import candidates, words_of

        for word in candidates(words_of(argv[1])).words:
            print(word)
        return exits.OK
    options = parser().parse_args(argv)
    from importlib import resources

    scripts = resources.files("upscaled_cli") / "completions"
    print((scripts / f"upscaled.{options.shell}").read_text("utf-8"), end="")
    return exits.OK


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled completion",
        description="Print a completion script.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("shell", choices=("bash", "fish", "tcsh", "zsh"))
    return arguments
