"""`upscaled models verify`: compares the files with the published checksums."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from upscaled_cli import exits
from upscaled_cli.download import sha256_of
from upscaled_cli.models.contents import read_contents
from upscaled_models.catalog import Model, is_file
from upscaled_protocol.errors import JobError

_FAULTS = ("wrong", "missing", "unreadable")


@dataclass(frozen=True)
class Verified:
    """A line of `verify`."""

    name: str
    path: str
    outcome: str  # ok, wrong, unpublished, own, unreadable, missing
    size_bytes: int | None = None
    sha256: str | None = None
    fault: str | None = None  # of one that is unreadable


def verify(models: Sequence[Model], own: Sequence[Path], model_dir: Path, as_json: bool) -> int:
    """Print the outcome for each model; the exit status. own: the user's own files, which have no
    published checksum and are read in its place."""
    rows = [_verified(model, model.path(model_dir)) for model in models]
    rows += [_verified_own(path, model_dir) for path in own]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        for row in rows:
            print(f"{row.name}: {_verdict(row)}")
    return exits.FAILED if any(row.outcome in _FAULTS for row in rows) else exits.OK


def _verified(model: Model, path: Path) -> Verified:
    if not is_file(path):
        return Verified(model.name, str(path), "missing")
    actual = sha256_of(path)
    outcome = "unpublished" if model.sha256 is None else "ok" if actual == model.sha256 else "wrong"
    return Verified(model.name, str(path), outcome, path.stat().st_size, actual)


def _verified_own(path: Path, model_dir: Path) -> Verified:
    try:
        read_contents(path, model_dir)
    except JobError as error:
        return Verified(path.stem, str(path), "unreadable", fault=error.message)
    return Verified(path.stem, str(path), "own", path.stat().st_size, sha256_of(path))


def _verdict(row: Verified) -> str:
    facts = f"{row.size_bytes} bytes, sha256 {row.sha256}"
    return {
        "ok": "ok",
        "missing": f"missing: {row.path}",
        "own": f"your own, it can be read; it has {facts}",
        "unreadable": str(row.fault),
        "unpublished": f"no published checksum; it has {facts}",
        "wrong": f"WRONG CHECKSUM: it has {facts}; delete {row.path} and pull it again",
    }[row.outcome]
