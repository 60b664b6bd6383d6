"""Fields of settings that are flags of a command: name, help and parser are written once.

`flag` and `switch` make the fields of a dataclass; `add_flags` adds their flags to a command, and
`read_flags` makes the dataclass from what was parsed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

SettingsT = TypeVar("SettingsT")

_KEY = "flag"


@dataclass(frozen=True)
class _Flag:
    help: str
    parse: Callable[[str], Any] | None  # None for a switch
    name: str | None = None
    metavar: str | None = None
    collect: Callable[[Sequence[Any]], Any] | None = None
    variable: str | None = None


def flag(
    help_text: str,
    parse: Callable[[str], Any] = str,
    *,
    default: Any = MISSING,
    default_factory: Any = MISSING,
    name: str | None = None,
    metavar: str | None = None,
    collect: Callable[[Sequence[Any]], Any] | None = None,
    variable: str | None = None,
) -> Any:
    """A field with a flag that takes a value.

    name: the flag's, if it is not the field's. collect: makes the field's value from the values of
    a flag that may be repeated. variable: an environment variable that the flag replaces.
    """
    about = _Flag(help_text, parse, name, metavar, collect, variable)
    return field(default=default, default_factory=default_factory, metadata={_KEY: about})


def switch(help_text: str, *, name: str | None = None) -> Any:
    """A field that is False, with a flag that makes it True."""
    return field(default=False, metadata={_KEY: _Flag(help_text, None, name)})


def add_flags(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    settings: type,
    *,
    without: type | None = None,
) -> None:
    """Add the flags of a dataclass and of the dataclasses in it, in their order.

    without: a base class whose flags are left out.
    """
    left_out = set() if without is None else {one.name for one, _ in _flags(without)}
    for one, about in _flags(settings):
        if one.name in left_out:
            continue
        option = f"--{about.name or one.name.replace('_', '-')}"
        given: dict[str, Any] = {"dest": one.name, "help": about.help}
        if about.parse is None:
            given |= {"action": "store_true"}
        else:
            given |= {"type": about.parse, "metavar": about.metavar or one.name.upper()}
        if about.collect is not None:
            given |= {"action": "append", "default": []}
        elif about.parse is not None:
            given |= {"default": os.environ.get(about.variable or "") or _default(one)}
        parser.add_argument(option, **given)


def read_flags(settings: type[SettingsT], options: argparse.Namespace, **given: Any) -> SettingsT:
    """The dataclass from the parsed flags. given: the values of other fields."""
    hints = get_type_hints(settings)
    for one in _fields(settings):
        about: _Flag | None = one.metadata.get(_KEY)
        if about is not None:
            value = getattr(options, one.name)
            given[one.name] = value if about.collect is None else about.collect(value)
        elif one.name not in given and is_dataclass(hints[one.name]):
            given[one.name] = read_flags(hints[one.name], options)
    return settings(**given)


def _flags(settings: type) -> Iterator[tuple[Field[Any], _Flag]]:
    hints = get_type_hints(settings)
    for one in _fields(settings):
        if _KEY in one.metadata:
            yield one, one.metadata[_KEY]
        elif is_dataclass(hints[one.name]):
            yield from _flags(hints[one.name])


def _fields(settings: Any) -> tuple[Field[Any], ...]:
    return fields(settings)


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()
