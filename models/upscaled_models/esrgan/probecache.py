"""Keeps what was measured of a weights file on disk, for the next worker that loads it.

To probe a large network takes many times as long as to load it, and gives the same every time.
Facts are kept under the file's digest, the precision and the device. They are valid for the
versions of the libraries that they were measured with.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from upscaled_models.device.precision import NAMES
from upscaled_models.esrgan.receptive import LARGEST_RADIUS, ReceptiveField
from upscaled_models.keptfiles import KeptFiles
from upscaled_models.memory import file_version

FOLDER = "learnt"
# Files of some hundred bytes.
_KEPT = 512
_LONGEST_FILE = 4096
_DISTRIBUTIONS = ("upscaled", "torch", "spandrel", "spandrel_extra_arches")
# Raise it if the same versions would measure something else.
_REVISION = "7"

Count = Annotated[int, Field(ge=1, le=1 << 30)]


class TileFacts(BaseModel):
    """Measured of a network that runs in tiles: its `ReceptiveField`, and the memory it takes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    radius: Annotated[int, Field(ge=0, le=LARGEST_RADIUS)] | None
    period: Count
    pixel_bytes: Count


class Facts(BaseModel):
    """The facts of one file in one precision on one device.

    versions: of the libraries that they were measured with.
    is_precise: False if results in this precision were unusable.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    versions: dict[str, str]
    is_precise: bool = True
    tiles: TileFacts | None = None


class ProbeCache:
    """The facts of one weights file. Nothing here raises: a missing or damaged fact is measured
    again.

    folder: the model folder; the facts are in a folder of it.
    status: the file's status when it was found. A file that was replaced since has no facts.
    """

    def __init__(
        self,
        folder: Path,
        path: Path,
        status: os.stat_result,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._kept = KeptFiles(folder / FOLDER, ".json", _KEPT)
        self._path = path
        self._status = status
        self._suffix = f"-{NAMES[dtype]}-{device.type}"
        self._digest: Future[str | None] | None = None

    def begin(self) -> None:
        """Begin to compute the file's digest, in a thread, while the file is loaded."""
        if self._digest is None:
            reader = ThreadPoolExecutor(1, thread_name_prefix="digest")
            self._digest = reader.submit(self._read_digest)
            reader.shutdown(wait=False)

    def find(self) -> Facts:
        """The facts that are kept."""
        nothing = Facts(versions=_versions())
        name = self._name()
        if name is None:
            return nothing
        try:
            with self._kept.path(name).open("rb") as file:
                facts = Facts.model_validate_json(file.read(_LONGEST_FILE))
        except (OSError, ValidationError):
            return nothing
        return facts if facts.versions == nothing.versions else nothing

    def keep_tiles(self, reach: ReceptiveField, pixel_bytes: int) -> None:
        """Add what was measured of a network that runs in tiles."""
        tiles = TileFacts(radius=reach.radius, period=reach.period, pixel_bytes=pixel_bytes)
        self._keep(self.find().model_copy(update={"tiles": tiles}))

    def keep_imprecise(self) -> None:
        """Add the fact that results in this precision are unusable."""
        self._keep(self.find().model_copy(update={"is_precise": False}))

    def _keep(self, facts: Facts) -> None:
        name = self._name()
        if name is not None and self._is_unchanged():
            self._kept.keep(name, facts.model_dump_json().encode())

    def _name(self) -> str | None:
        self.begin()
        digest = None if self._digest is None else self._digest.result()
        return None if digest is None else digest + self._suffix

    def _read_digest(self) -> str | None:
        try:
            with self._path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return None
        return digest if self._is_unchanged() else None

    def _is_unchanged(self) -> bool:
        try:
            now = self._path.stat()
        except OSError:
            return False
        return file_version(now) == file_version(self._status)


@cache
def _versions() -> dict[str, str]:
    versions = {"facts": _REVISION}
    for name in _DISTRIBUTIONS:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
