"""The command line of `upscaled models`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from upscaled_cli import exits
from upscaled_cli.download import RETRY_PAUSES_S
from upscaled_cli.models.add import add
from upscaled_cli.models.listing import list_models
from upscaled_cli.models.pull import pull
from upscaled_cli.models.verify import verify
from upscaled_models.catalog import (
    MODEL_FOLDERS,
    Catalog,
    Model,
    default_model_dir,
    is_file,
    why_unreadable,
)
from upscaled_protocol.optionvalues import given_path

_EXAMPLES = """examples:
  upscaled models list
  upscaled models pull 4x-UltraSharp
  upscaled models pull flux                  # with all that the flux method needs, 18 GB
  upscaled models add ~/Downloads/4x_mine.pth
  upscaled models add https://example.com/4x_mine.safetensors --name mine
  upscaled models verify                     # hash again what is installed

`add` checks a file of your own, or a link to one, and puts it into the model folder. It replaces no
other file. If a download is cut, the next run continues it. MODEL_CACHE_DIR is the model folder.

exit status: 0 done, 1 a model could not be fetched or used, is missing or damaged, 2 wrong usage,
such as an unknown name, 130 interrupted.
"""


def main(
    argv: Sequence[str],
    catalog: Catalog | None = None,
    pauses_s: Sequence[float] = RETRY_PAUSES_S,
) -> int:
    """Run one action; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    catalog = catalog or Catalog.load()
    unreadable = why_unreadable(options.model_dir)
    if unreadable is not None:
        print(f"upscaled models: {unreadable}", file=sys.stderr)
    try:
        if options.action == "list":
            return list_models(catalog, options.model_dir, options.json)
        if options.action == "add":
            try:
                return add(catalog, options.source, options.model_dir, options.name, pauses_s)
            except ValueError as error:
                arguments.error(str(error))
        if options.action == "pull":
            named = [_find(catalog, name) for name in options.names]
            return pull(catalog, named, options.model_dir, pauses_s)
        folders = [catalog.own_files(options.model_dir, method) for method in MODEL_FOLDERS]
        own = {path.stem: path for paths in folders for path in paths}
        if options.names:
            named = [_find(catalog, name) for name in options.names if name not in own]
            chosen = [path for stem, path in own.items() if stem in options.names]
            return verify(named, chosen, options.model_dir, options.json)
        # Without names, only installed models are checked, and bundled ones, which must be there.
        there = [m for m in catalog if m.bundled or is_file(m.path(options.model_dir))]
        status = verify(there, list(own.values()), options.model_dir, options.json)
        return exits.FAILED if unreadable else status
    except KeyboardInterrupt:
        print("interrupted: run the same again to continue", file=sys.stderr)
        return exits.INTERRUPTED


def _find(catalog: Catalog, name: str) -> Model:
    model = catalog.find(name)
    if model is None:
        print(f"upscaled models: {catalog.unknown(name)}", file=sys.stderr)
        raise SystemExit(exits.USAGE)
    return model


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled models",
        description="The models that upscaled knows, and those of your own.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = arguments.add_subparsers(
        dest="action", required=True, metavar="list | pull | add | verify"
    )
    listing = actions.add_parser("list", help="every known model, and what is installed")
    pulling = actions.add_parser("pull", help="fetch models, and all that they require")
    pulling.add_argument("names", nargs="+", metavar="NAME", help="as `list` shows it")
    adding = actions.add_parser("add", help="check a weights file and put it into the model folder")
    adding.add_argument("source", metavar="FILE|URL", help="a file, or an https link to one")
    adding.add_argument("--name", metavar="STEM", help="default: the file's own name")
    verifying = actions.add_parser("verify", help="compare installed files with their checksums")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all installed")
    for action in (listing, verifying):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
    for action in (listing, pulling, adding, verifying):
        action.add_argument(
            "--model-dir",
            type=given_path,
            default=default_model_dir(),
            help="default: MODEL_CACHE_DIR or %(default)s",
        )
    return arguments
