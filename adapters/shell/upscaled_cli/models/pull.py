"""`upscaled models pull`: fetches models of the catalogue, and all that they require."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from upscaled_cli import exits
from upscaled_cli.download import DownloadError, SourcesError, download
from upscaled_cli.models.bar import bar
from upscaled_cli.models.listing import installed, licence_text, size_text
from upscaled_models.catalog import Catalog, Model
from upscaled_models.face.detectorweights import INSTALL
from upscaled_models.registry import is_installed


def pull(
    catalog: Catalog, models: Sequence[Model], model_dir: Path, pauses_s: Sequence[float]
) -> int:
    """Fetch the models and all that they require; the exit status. After a failure, print how the
    file can be fetched by hand, and continue."""
    wanted = list(
        dict.fromkeys(part for model in models for part in catalog.with_requirements(model))
    )
    failed = 0
    for model in wanted:
        if installed(model, model_dir) in ("bundled", "yes"):
            print(f"{model.name}: already there, {model.path(model_dir)}")
            continue
        if model.bundled:
            print(f"{model.name}: missing from this installation: install upscaled again")
            failed += 1
            continue
        target = model.target(model_dir)
        print(f"{model.name}: {size_text(model.size_bytes)}, licence {licence_text(model)}")
        sys.stdout.flush()
        try:
            _fetch(model, target, pauses_s)
        except DownloadError as error:
            failed += 1
            print(f"{model.name}: {error}", file=sys.stderr)
            if isinstance(error, SourcesError):
                print(_by_hand(model, target), file=sys.stderr)
                if error.is_offline:
                    pauses_s = ()  # no network: further tries would cost seconds per source
        else:
            checked = "checksum is right" if model.sha256 else "no published checksum to compare"
            print(f"{model.name}: {target} ({checked})")
    if any(model.method == "face" for model in wanted) and not is_installed("face"):
        print(f"The method face also needs a face detector: run `{INSTALL}`")
    return exits.FAILED if failed else exits.OK


def _fetch(model: Model, target: Path, pauses_s: Sequence[float]) -> None:
    host = urlsplit(model.sources[0]).hostname
    with bar(f"{model.file} from {host}", model.size_bytes) as progress:
        download(
            model.sources,
            target,
            size_bytes=model.size_bytes,
            sha256=model.sha256,
            progress=progress,
            pauses_s=pauses_s,
        )


def _by_hand(model: Model, target: Path) -> str:
    size = "" if model.size_bytes is None else f", {model.size_bytes} bytes"
    sha256 = f"sha256 {model.sha256}" if model.sha256 else "no published checksum"
    return (
        f"  to fetch it by hand, on another machine too: {model.sources[0]}\n"
        f"    save it as {target.absolute()}\n"
        f"    {sha256}{size}; `upscaled models verify {model.name}` compares"
    )
