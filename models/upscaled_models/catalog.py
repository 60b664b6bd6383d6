"""The catalogue of known models, and from a model's name to the file of its weights.

Light: no torch, no network. `upscaled models pull` does the fetching.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from upscaled_imaging.paths import is_inside
from upscaled_protocol.errors import ErrorCode, JobError

# The layout under MODEL_CACHE_DIR, which is that of ComfyUI's folder `models`.
FOLDERS = ("upscale_models", "unet", "vae", "clip", "facerestore_models")

# The folder with the weights that a job's `model` may name, by method. Other folders hold parts.
MODEL_FOLDERS = {"esrgan": "upscale_models", "flux": "unet", "face": "facerestore_models"}

# ComfyUI reads these beside those above.
_SECOND_FOLDERS = {"unet": "diffusion_models", "clip": "text_encoders"}

# Of the files that the methods esrgan and face read, in order of preference: a safetensors file
# cannot hold code.
NETWORK_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt")
WEIGHT_SUFFIXES = (*NETWORK_SUFFIXES, ".gguf")
# Of the files that a job's `model` may name, by method.
_MODEL_SUFFIXES = {"esrgan": NETWORK_SUFFIXES, "flux": (".gguf",), "face": NETWORK_SUFFIXES}

# Linux' PATH_MAX; an error must not echo megabytes.
_LONGEST_PATH = 4096


@dataclass(frozen=True)
class Model:
    """One entry of `catalog.toml`, which explains the fields: one file of weights."""

    name: str
    method: str
    architecture: str
    licence: str
    commercial_use: bool
    description: str
    folder: str
    file: str
    other_files: tuple[str, ...] = ()
    scale: int | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    sources: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    alias: str = ""
    bundled: bool = False

    @property
    def is_for_jobs(self) -> bool:
        """True if a job's `model` may name it; False for a part that such a model needs."""
        return MODEL_FOLDERS.get(self.method) == self.folder

    def path(self, model_dir: Path) -> Path:
        """The path of its file, under any of the names that ComfyUI's users know. If there is no
        file, the path that `pull` will give it."""
        places = (
            folder / file
            for folder in folders_of(self.folder, model_dir)
            for file in (self.file, *self.other_files)
        )
        target = self.target(model_dir)
        return target if self.bundled else next(filter(is_file, places), target)

    def target(self, model_dir: Path) -> Path:
        """The path that `pull` gives its file."""
        folder = bundled_weights_dir() if self.bundled else model_dir / self.folder
        return folder / self.file


class Catalog:
    """The known models, in the order of the file."""

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self._by_name = {model.name: model for model in self.models}
        self._by_alias = {model.alias: model for model in self.models if model.alias}
        self._by_file = {
            file: model for model in self.models for file in (model.file, *model.other_files)
        }
        names = {**self._by_alias, **self._by_name}
        self._by_spelling = {_spelling(name): model for name, model in names.items()}

    @classmethod
    def load(cls) -> Self:
        """The catalogue that comes with upscaled."""
        return cls.read(_data_dir() / "catalog.toml")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The catalogue in that file. Raises `TypeError` for an unknown or missing field."""
        return cls([_model(entry) for entry in tomllib.loads(path.read_text("utf-8"))["model"]])

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def find(self, name: str) -> Model | None:
        """The entry of that name, alias or file name; failing that, in another spelling: other
        programs write realesrgan-x4plus for RealESRGAN_x4plus."""
        return self._find_exactly(name) or self._by_spelling.get(_spelling(name))

    def method_of(self, name: str) -> str:
        """The method whose jobs use the model of that name, which may be one of the user's own."""
        model = self.find(name)
        if model is not None:
            return model.method
        return "flux" if name.endswith(".gguf") else "esrgan"

    def _find_exactly(self, name: str) -> Model | None:
        return self._by_name.get(name) or self._by_alias.get(name) or self._by_file.get(name)

    def with_requirements(self, model: Model) -> list[Model]:
        """The entry and every entry it requires, itself first, each once."""
        found = [model]
        for entry in found:
            for name in entry.requires:
                required = self._by_name[name]
                if required not in found:
                    found.append(required)
        return found

    def own_files(self, model_dir: Path, method: str = "esrgan") -> list[Path]:
        """Weights in the method's folders that have no entry; jobs name them by their stem.

        A folder that cannot be read counts as empty.
        """
        files: list[Path] = []
        for folder in folders_of(MODEL_FOLDERS[method], model_dir):
            with suppress(OSError):
                files += sorted(folder.iterdir())
        return [
            path
            for path in files
            if path.suffix in _MODEL_SUFFIXES[method]
            and path.name not in self._by_file
            and is_file(path)
        ]

    def installed(self, model_dir: Path, method: str) -> list[str]:
        """What a job's `model` may name without a download: entries, then the user's own files."""
        names = [
            model.name
            for model in self
            if model.method == method and model.is_for_jobs and is_file(model.path(model_dir))
        ]
        names += [path.stem for path in self.own_files(model_dir, method)]
        return list(dict.fromkeys(names))

    def locate(
        self, name_or_path: str, model_dir: Path, allowed_roots: Sequence[Path] = ()
    ) -> Path:
        """The weights file that a job's `model` means. It exists, but is not opened.

        In this order: a catalogue name or file name; the name or the stem of a file in a folder of
        `model_dir`; a path, which has to be in `allowed_roots` if there are any. Names are the
        operator's own, so the roots do not apply to what they stand for.

        Raises `JobError`: model_not_found, with what to do about it, or path_not_allowed.
        """
        if len(name_or_path) > _LONGEST_PATH or "\0" in name_or_path:
            raise JobError(ErrorCode.MODEL_NOT_FOUND, "the model is neither a name nor a path")
        model = self._find_exactly(name_or_path)
        if model is not None and is_file(model.path(model_dir)):
            return model.path(model_dir)
        path = Path(name_or_path)
        if path.name == name_or_path:
            installed = installed_as(name_or_path, model_dir)
            if installed is not None:
                return installed
            model = self.find(name_or_path)
            if model is not None and is_file(model.path(model_dir)):
                return model.path(model_dir)
        if model is not None:
            raise JobError(
                ErrorCode.MODEL_NOT_FOUND,
                why_unreadable(model_dir)
                or f"the model {model.name} is not installed: "
                f"run `upscaled models pull {model.name}`",
            )
        # Checked before the file is looked for: the error must not reveal whether it exists.
        folders = (*allowed_roots, model_dir, bundled_weights_dir())
        is_allowed = not allowed_roots or is_inside(path, folders)
        if is_allowed and is_file(path):
            return path
        if is_allowed or path.name == name_or_path:
            raise JobError(ErrorCode.MODEL_NOT_FOUND, self.unknown(name_or_path))
        raise JobError(
            ErrorCode.PATH_NOT_ALLOWED,
            f"the model's path {path} lies outside the allowed roots: "
            "put the file into the model folder and give its name",
        )

    def unknown(self, name: str) -> str:
        """The sentence about a model that does not exist."""
        if Path(name).name != name:
            return f"there is no weights file at {name}"
        close = difflib.get_close_matches(name, self._by_name, n=1)
        hint = (
            f"did you mean {close[0]}?" if close else "`upscaled models list` shows what is known"
        )
        return f"no model is called {name}: {hint}"


def default_model_dir() -> Path:
    """MODEL_CACHE_DIR, else a folder in the cache of the user, or of the machine if the uid has no
    user."""
    configured = os.environ.get("MODEL_CACHE_DIR")
    if configured:
        return Path(configured)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "upscaled"
    except RuntimeError:  # no HOME, and a uid that has no user, as with `docker run --user`
        return Path("/var/cache/upscaled")


def why_unreadable(model_dir: Path) -> str | None:
    """One sentence if the model folder exists and cannot be read, so that it counts as empty."""
    try:
        for folder in (model_dir, *_all_folders(model_dir)):
            with suppress(FileNotFoundError):
                next(folder.iterdir(), None)
    except OSError as error:
        return (
            f"the model folder {model_dir} cannot be read and counts as empty ({error.strerror}): "
            "give --model-dir or MODEL_CACHE_DIR"
        )
    return None


def folders_of(folder: str, model_dir: Path) -> list[Path]:
    """The folders that are read for one of `FOLDERS`. `pull` writes to the first. They may be
    missing."""
    names = (folder, _SECOND_FOLDERS.get(folder))
    return [model_dir / name for name in names if name is not None]


def _all_folders(model_dir: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        yield from folders_of(folder, model_dir)


def bundled_weights_dir() -> Path:
    """The folder of the weights that come with upscaled."""
    return _data_dir() / "weights"


@cache
def _data_dir() -> Path:
    # A wheel holds the data inside the package; a checkout keeps it beside the package.
    inside = Path(__file__).with_name("data")
    return inside if inside.is_dir() else Path(__file__).parents[1]


def _spelling(name: str) -> str:
    return name.casefold().replace("_", "-")


def _model(entry: dict[str, Any]) -> Model:
    for name in ("sources", "requires", "other_files"):
        entry[name] = tuple(entry.get(name, ()))
    return Model(**entry)


def installed_as(name: str, model_dir: Path) -> Path | None:
    """The file of the model folder that has that name or stem, if there is one."""
    for folder in _all_folders(model_dir):
        for candidate in (name, *(name + suffix for suffix in WEIGHT_SUFFIXES)):
            path = folder / candidate
            if path.suffix in WEIGHT_SUFFIXES and is_file(path):
                return path
    return None


def is_file(path: Path) -> bool:
    """True if there is a file; False also if that cannot be found out."""
    try:
        return path.is_file()
    except OSError:  # a name that is too long, or a folder that may not be searched
        return False
