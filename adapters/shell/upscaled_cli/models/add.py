"""`upscaled models add`: check a weights file, and put it into the model folder under a name."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from upscaled_cli import exits
from upscaled_cli.config import OPTIONS
from upscaled_cli.download import DownloadError, download, sha256_of
from upscaled_cli.models.bar import bar
from upscaled_cli.models.contents import read_contents
from upscaled_cli.models.listing import licence_text, size_text
from upscaled_cli.partfile import CHUNK_BYTES
from upscaled_imaging.pendingfile import PendingFile
from upscaled_models.catalog import (
    MODEL_FOLDERS,
    WEIGHT_SUFFIXES,
    Catalog,
    Model,
    installed_as,
    is_file,
)
from upscaled_protocol.errors import JobError

# The limit of a name. It leaves room for a suffix and for `.part`.
_LONGEST_NAME_BYTES = 200
# The folder, below the model folder, for a link's file until it was checked.
_INCOMING = "incoming"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class RefusedError(Exception):
    """Raised when a file cannot be added because of a file in the model folder."""


def add(
    catalog: Catalog, source: str, model_dir: Path, name: str | None, pauses_s: Sequence[float]
) -> int:
    """Check the file of a path or a link, and copy it into the model folder. It replaces no file.
    Returns the exit status. Raises `ValueError` if the name or the link cannot be used."""
    is_link = "://" in source
    if name is not None:
        name = _checked_name(name)
    try:
        if is_link:
            with _fetched(source, model_dir, name, pauses_s) as path:
                _add_file(catalog, path, model_dir, name, is_ours=True)
        else:
            _add_file(catalog, Path(source), model_dir, name, is_ours=False)
    except JobError as error:
        print(error.message + _hint_for_page(source), file=sys.stderr)
    except (RefusedError, DownloadError) as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"{error.filename or source}: {error.strerror or error}", file=sys.stderr)
    else:
        return exits.OK
    return exits.FAILED


def _add_file(
    catalog: Catalog, path: Path, model_dir: Path, name: str | None, *, is_ours: bool
) -> None:
    """Add a file. is_ours: it was fetched for this, and may be moved."""
    if not path.is_file():
        what = "it is no file" if path.exists() else "there is no such file"
        known = catalog.find(str(path))
        advice = f"; `upscaled models pull {known.name}` fetches it" if known else ""
        raise RefusedError(f"{path}: {what}{advice}")
    known = _published(catalog, path)
    if known is not None:
        _add_published(known, path, model_dir, is_ours=is_ours)
        return
    contents = read_contents(path, model_dir)
    stem = name or _checked_name(path.name)
    target = model_dir / MODEL_FOLDERS[contents.method] / (stem + contents.suffix)
    there = _same_file(catalog, path, target, stem, model_dir)
    if there is None:
        _place(path, target, is_ours=is_ours)
    added = there or target
    print(f"{added.stem}: {contents.facts}, {size_text(path.stat().st_size)}")
    print(f"  {added}{' (was there already)' if there else ''}")
    print(f"  licence: {contents.note or 'the file names none: ask its source'}")
    _print_use(added.stem, contents.method, contents.field)


def _add_published(model: Model, path: Path, model_dir: Path, *, is_ours: bool) -> None:
    """Add a file of the catalogue that was fetched by hand."""
    if not _has_same_bytes(model.path(model_dir), path):
        target = model.target(model_dir)
        if target.exists():
            raise RefusedError(f"{target} is damaged: delete it, and add {model.name} once more")
        _place(path, target, is_ours=is_ours)
    print(f"{model.name}: {model.architecture}, of the catalogue (checksum is right)")
    print(f"  {model.path(model_dir)}")
    print(f"  licence: {licence_text(model)}")
    if model.is_for_jobs:
        _print_use(model.name, model.method)
    else:
        print("  one of the files that the flux method needs")


def _same_file(
    catalog: Catalog, path: Path, target: Path, stem: str, model_dir: Path
) -> Path | None:
    """The file in the model folder with the same bytes. Raises `RefusedError` if another file has
    the name."""
    if known := catalog.find(stem):
        raise RefusedError(
            f"the catalogue calls another file {known.name}: give this one another name with --name"
        )
    taken = installed_as(stem, model_dir)
    if taken is None:
        return _twin(path, target.parent)
    if not _has_same_bytes(taken, path):
        raise RefusedError(f"{taken} is another model: give this one another name with --name")
    return taken


def _published(catalog: Catalog, path: Path) -> Model | None:
    """The catalogue's model with the same bytes."""
    size = path.stat().st_size
    same_size = [model for model in catalog if model.sha256 and model.size_bytes == size]
    sha256 = sha256_of(path) if same_size else None
    return next((model for model in same_size if model.sha256 == sha256), None)


def _twin(path: Path, folder: Path) -> Path | None:
    """A file in the folder with the same bytes."""
    try:
        others = sorted(folder.iterdir())
    except OSError:
        return None
    weights = (other for other in others if other.suffix in WEIGHT_SUFFIXES)
    return next((other for other in weights if _has_same_bytes(other, path)), None)


def _has_same_bytes(one: Path, other: Path) -> bool:
    if not is_file(one) or one.stat().st_size != other.stat().st_size:
        return False
    return one.samefile(other) or sha256_of(one) == sha256_of(other)


def _place(path: Path, target: Path, *, is_ours: bool) -> None:
    """Put the file there under that name. It appears only when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_ours:
        with contextlib.suppress(OSError):  # no links here, or the name is taken: see below
            os.link(path, target)
            return
    pending = PendingFile(target)
    size = path.stat().st_size
    try:
        with path.open("rb") as file, bar(f"copying {path.name}", size) as progress:
            while chunk := file.read(CHUNK_BYTES):
                pending.file.write(chunk)
                progress(file.tell(), size)
        pending.file.flush()
        os.fsync(pending.file.fileno())
        if not pending.publish_new():
            raise RefusedError(f"{target} is there already: give another name with --name")
    finally:
        pending.close()


@contextlib.contextmanager
def _fetched(
    url: str, model_dir: Path, name: str | None, pauses_s: Sequence[float]
) -> Iterator[Path]:
    """The file of a link. It is removed afterwards. Raises `ValueError` if the link cannot be used,
    and `DownloadError`."""
    link = urlsplit(url)
    # In plain HTTP, other weights could be put in place of these on the way.
    if link.scheme != "https" and not (link.scheme == "http" and link.hostname in _LOOPBACK):
        raise ValueError(f"only https:// links are fetched, not {url}")
    file = Path(unquote(link.path)).name
    if Path(file).suffix.lower() not in WEIGHT_SUFFIXES and name is None:
        raise ValueError(f"the link does not end in the name of a weights file: give --name: {url}")
    path = model_dir / _INCOMING / (file or str(name))
    with bar(f"{path.name} from {link.hostname}", None) as progress:
        download([url], path, size_bytes=None, sha256=None, progress=progress, pauses_s=pauses_s)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another run uses the folder
            path.parent.rmdir()


def _checked_name(name: str) -> str:
    """The name without a suffix of weights. Raises `ValueError` if no file can have it."""
    stem = Path(name).stem if Path(name).suffix.lower() in WEIGHT_SUFFIXES else name
    is_long = len(os.fsencode(stem)) > _LONGEST_NAME_BYTES
    if not stem or stem.startswith((".", "-")) or "/" in stem or not stem.isprintable() or is_long:
        raise ValueError(
            f"{name[:80]!r} cannot be a model's name: give --name with 1 to {_LONGEST_NAME_BYTES} "
            "letters, no slash among them, and no dot or dash first"
        )
    return stem


def _hint_for_page(source: str) -> str:
    """A hint if the link leads to the page of a file, and not to the file."""
    if "://" not in source or "/blob/" not in source:
        return ""
    host = urlsplit(source).hostname or ""
    place = "/raw/" if host.endswith("github.com") else "/resolve/"
    return f"; this is the link of a page, try {source.replace('/blob/', place, 1)}"


def _print_use(name: str, method: str, field: str = "model") -> None:
    config = {"image_path": "photo.jpg", field: name}
    line = json.dumps({"job_id": "1", "method": method, "config": config}, separators=(",", ":"))
    chosen = "" if method == "esrgan" else f" --method {method}"
    print(f"  upscaled upscale photo.jpg{chosen} {OPTIONS[field]} {shlex.quote(name)}")
    print(f"  {line}")
