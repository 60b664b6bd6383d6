"""`upscaled models verify`: compares the files with the published checksums."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from upscaled_cli import exits
from upscaled_cli.download import sha256_of
from upscaled_models.catalog import Model


@dataclass(frozen=True)
class Verified:
    """A line of `verify`."""

    name: str
    path: str
    outcome: str  # ok, wrong, unpublished, missing
    size_bytes: int | None = None
    sha256: str | None = None


def verify(models: Sequence[Model], model_dir: Path, as_json: bool) -> int:
    """Print the outcome for each model; the exit status."""
    rows = [_verified(model, model.path(model_dir)) for model in models]
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
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
