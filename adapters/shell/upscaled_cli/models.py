"""`upscaled models list | pull | verify`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from upscaled_cli import exits
from upscaled_cli.download import RETRY_PAUSES_S, DownloadError, download, sha256_of
from upscaled_models.catalog import (
    WEIGHT_SUFFIXES,
    Catalog,
    Model,
    default_model_dir,
)

_EXAMPLES = """examples:
  upscaled models list
  upscaled models pull 4x-UltraSharp
  upscaled models pull flux                  # with all that the flux method needs, 18 GB
  upscaled models verify                     # hash again what is installed

A cut download goes on where it stopped. MODEL_CACHE_DIR says where models lie.

exit status: 0 done, 1 a model could not be fetched, is missing or is damaged, 2 wrong usage, as a
name that is not known, 130 interrupted.
"""


def main(
    argv: Sequence[str],
    catalog: Catalog | None = None,
    pauses_s: Sequence[float] = RETRY_PAUSES_S,
) -> int:
    """Run one of the three; the exit status."""
    options = parser().parse_args(argv)
    catalog = catalog or Catalog.load()
    try:
        if options.action == "list":
            return list_models(catalog, options.model_dir, options.json)
        named = [_find(catalog, name) for name in options.names]
        if options.action == "pull":
            return pull(catalog, named, options.model_dir, pauses_s)
        # Unnamed, what is not installed is no failure; what comes with upscaled must be there.
        there = [m for m in catalog if m.bundled or m.path(options.model_dir).is_file()]
        return verify(named or there, options.model_dir, options.json)
    except KeyboardInterrupt:
        print("interrupted: run the same again to go on", file=sys.stderr)
        return exits.INTERRUPTED


@dataclass(frozen=True)
class Listed:
    """A line of `list`. What is not known of one's own files is None."""

    name: str
    installed: str  # bundled, yes, own, partial, damaged (not of the published size), no
    path: str
    method: str
    architecture: str | None = None
    scale: int | None = None
    size_bytes: int | None = None
    licence: str | None = None
    commercial_use: bool | None = None
    description: str | None = None


@dataclass(frozen=True)
class Verified:
    """A line of `verify`."""

    name: str
    path: str
    outcome: str  # ok, wrong, unpublished, missing
    size_bytes: int | None = None
    sha256: str | None = None


def list_models(catalog: Catalog, model_dir: Path, as_json: bool) -> int:
    """Print every known model, and the files of one's own in the model folder."""
    rows = [_listed(model, model_dir) for model in catalog] + _own_files(catalog, model_dir)
    if as_json:
        _print_json(rows)
        return exits.OK
    print(f"{'NAME':26}  {'INSTALLED':9}  {'METHOD':6}  {'SCALE':5}  {'SIZE':>8}  LICENCE")
    for row in rows:
        scale = f"{row.scale}x" if row.scale else "-"
        forbids = " (non-commercial)" if row.commercial_use is False else ""
        print(
            f"{row.name:26}  {row.installed:9}  {row.method:6}  {scale:5}  "
            f"{_size(row.size_bytes):>8}  {row.licence or 'unknown'}{forbids}"
        )
        if row.description:
            print(f"    {row.description}")
    print(f"\nmodels lie in {model_dir}")
    return exits.OK


def pull(
    catalog: Catalog, models: Sequence[Model], model_dir: Path, pauses_s: Sequence[float]
) -> int:
    """Fetch the models and all that they require. Goes on past a failure, and tells at the end."""
    wanted = list(
        dict.fromkeys(part for model in models for part in catalog.with_requirements(model))
    )
    failed = 0
    for model in wanted:
        target = model.path(model_dir)
        if _installed(model, model_dir) in ("bundled", "yes"):
            print(f"{model.name}: already there, {target}")
            continue
        if model.bundled:
            print(f"{model.name}: missing from this installation: install upscaled again")
            failed += 1
            continue
        use = "" if model.commercial_use else ": NON-COMMERCIAL USE ONLY"
        print(f"{model.name}: {_size(model.size_bytes)}, licence {model.licence}{use}", flush=True)
        try:
            _pull_one(model, target, pauses_s)
        except DownloadError as error:
            print(f"{model.name}: {error}", file=sys.stderr)
            failed += 1
        else:
            checked = "checksum is right" if model.sha256 else "no published checksum to compare"
            print(f"{model.name}: {target} ({checked})")
    return exits.FAILED if failed else exits.OK


def verify(models: Sequence[Model], model_dir: Path, as_json: bool) -> int:
    """Hash the files again and compare them with the published checksums."""
    rows = [_verified(model, model.path(model_dir)) for model in models]
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            print(f"{row.name}: {_verdict(row)}")
    return exits.FAILED if any(row.outcome in ("wrong", "missing") for row in rows) else exits.OK


def _verified(model: Model, path: Path) -> Verified:
    if not path.is_file():
        return Verified(model.name, str(path), "missing")
    actual = sha256_of(path)
    outcome = "unpublished" if model.sha256 is None else "ok" if actual == model.sha256 else "wrong"
    return Verified(model.name, str(path), outcome, path.stat().st_size, actual)


def _verdict(row: Verified) -> str:
    facts = f"{row.size_bytes} bytes, sha256 {row.sha256}"
    return {
        "ok": "ok",
        "missing": f"missing: {row.path}",
        "unpublished": f"no published checksum; it has {facts}",
        "wrong": f"WRONG CHECKSUM: it has {facts}; delete {row.path} and pull it again",
    }[row.outcome]


def _print_json(rows: Sequence[Listed] | Sequence[Verified]) -> None:
    print(json.dumps([asdict(row) for row in rows], indent=2))


def _pull_one(model: Model, target: Path, pauses_s: Sequence[float]) -> None:
    from tqdm import tqdm

    host = urlsplit(model.sources[0]).hostname
    with tqdm(
        desc=f"{model.file} from {host}",
        total=model.size_bytes,
        unit="B",
        unit_scale=True,
        disable=None,  # no bar where stderr is no terminal
    ) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        download(
            model.sources,
            target,
            size_bytes=model.size_bytes,
            sha256=model.sha256,
            progress=show,
            pauses_s=pauses_s,
        )


def _listed(model: Model, model_dir: Path) -> Listed:
    return Listed(
        name=model.name,
        installed=_installed(model, model_dir),
        path=str(model.path(model_dir)),
        method=model.method,
        architecture=model.architecture,
        scale=model.scale,
        size_bytes=model.size_bytes,
        licence=model.licence,
        commercial_use=model.commercial_use,
        description=model.description,
    )


def _own_files(catalog: Catalog, model_dir: Path) -> list[Listed]:
    """Weights in `upscale_models` that no catalogue knows; jobs name them by their stem."""
    known = {model.file for model in catalog}
    return [
        Listed(path.stem, "own", str(path), "esrgan", size_bytes=path.stat().st_size)
        for path in sorted((model_dir / "upscale_models").glob("*"))
        if path.suffix in WEIGHT_SUFFIXES and path.name not in known and path.is_file()
    ]


def _installed(model: Model, model_dir: Path) -> str:
    path = model.path(model_dir)
    if path.is_file():
        if model.size_bytes not in (None, path.stat().st_size):
            return "damaged"
        return "bundled" if model.bundled else "yes"
    return "partial" if path.with_name(path.name + ".part").is_file() else "no"


def _find(catalog: Catalog, name: str) -> Model:
    model = catalog.find(name)
    if model is None:
        print(
            f"upscaled models: no model is called {name}; `upscaled models list` shows them",
            file=sys.stderr,
        )
        raise SystemExit(exits.USAGE)
    return model


def _size(size_bytes: int | None) -> str:
    if size_bytes is None:
        return "-"
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.1f} MB"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    arguments = argparse.ArgumentParser(
        prog="upscaled models",
        description="The models that upscaled knows: list, pull, verify.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = arguments.add_subparsers(dest="action", required=True, metavar="list | pull | verify")
    listing = actions.add_parser("list", help="every known model, and what is installed")
    pulling = actions.add_parser("pull", help="fetch models, and all that they require")
    pulling.add_argument("names", nargs="+", metavar="NAME", help="as `list` shows it")
    verifying = actions.add_parser("verify", help="compare installed files with their checksums")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="default: all installed")
    for action in (listing, verifying):
        action.add_argument("--json", action="store_true", help="for programs")
    for action in (listing, pulling, verifying):
        action.add_argument(
            "--model-dir",
            type=Path,
            default=default_model_dir(),
            help="default: MODEL_CACHE_DIR or %(default)s",
        )
    return arguments
