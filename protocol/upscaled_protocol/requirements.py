"""The versions of other packages that this package asks for, and those that are installed.

pip does not keep them together: another package may install an older one later, and an extra that
is not named is not looked at.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from functools import cache, reduce
from importlib import metadata
from operator import and_

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name


def distributions_of(extra: str) -> Iterator[str]:
    """What an extra adds to the package."""
    for requirement in _all():
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield requirement.name


def installed_version(distribution: str) -> str | None:
    """The installed version; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def unsuitable(distribution: str) -> str | None:
    """The installed version and those that are needed, as in "pyvips 3.0.0 is installed, and >=3.2
    is needed"; None if it suits, or if the distribution is not installed."""
    version, needed = installed_version(distribution), _needed(distribution)
    if version is None or needed.contains(version, prereleases=True):
        return None
    return f"{distribution} {version} is installed, and {needed} is needed"


def wanted(distribution: str) -> str:
    """What pip has to install, with its version, for a shell."""
    return shlex.quote(f"{distribution}{_needed(distribution)}")


def _needed(distribution: str) -> SpecifierSet:
    name = canonicalize_name(distribution)
    sets = [one.specifier for one in _all() if canonicalize_name(one.name) == name]
    return reduce(and_, sets, SpecifierSet())


@cache
def _all() -> tuple[Requirement, ...]:
    try:
        lines = metadata.requires("upscaled") or []
    except metadata.PackageNotFoundError:  # the packages lie in PYTHONPATH
        return ()
    return tuple(map(Requirement, lines))
