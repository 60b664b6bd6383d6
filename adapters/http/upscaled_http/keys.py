"""API keys. The server keeps only their SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import NamedTuple, Self

# Shorter keys can be guessed.
MIN_KEY_LENGTH = 16
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"[!-+\--~]+")  # visible ASCII without the comma, which separates keys
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9a-f]{64}")


class Key(NamedTuple):
    """A key's name, which logs show and which owns jobs, and the SHA-256 of its text."""

    name: str
    sha256: str

    @classmethod
    def of(cls, name: str, text: str) -> Self:
        """The entry of a plain key."""
        return cls(name, _sha256(text.encode()))

    @classmethod
    def parse(cls, entry: str) -> Self:
        """Parse `name:key` or `name:sha256:HEX`. Raises `ValueError`; its sentence shows no key."""
        name, colon, text = entry.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError(
                "an entry is not NAME:KEY or NAME:sha256:HEX; names are of letters, digits and ._-"
            )
        if text.startswith(_HASH_PREFIX):
            digest = text.removeprefix(_HASH_PREFIX).lower()
            if not _HASH.fullmatch(digest):
                raise ValueError(f"the SHA-256 of key {name} is not 64 hexadecimal digits")
            return cls(name, digest)
        if len(text) < MIN_KEY_LENGTH or not _KEY.fullmatch(text):
            raise ValueError(
                f"key {name} needs at least {MIN_KEY_LENGTH} characters of visible ASCII, without "
                "commas; `upscaled serve --new-key NAME` makes one"
            )
        return cls.of(name, text)

    def line(self) -> str:
        """The entry in a keys file."""
        return f"{self.name}:{_HASH_PREFIX}{self.sha256}"


def parse_keys(text: str) -> tuple[Key, ...]:
    """The entries of a keys file or a variable: one per line, or separated by commas; `#` starts a
    comment. Raises `ValueError`."""
    entries = [
        entry
        for line in text.splitlines()
        if not line.lstrip().startswith("#")
        for entry in map(str.strip, line.split(","))
        if entry
    ]
    return check_names(tuple(Key.parse(entry) for entry in entries))


def check_names(keys: tuple[Key, ...]) -> tuple[Key, ...]:
    """Return the keys. Raises `ValueError` if two have the same name."""
    names = [key.name for key in keys]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two keys are called {name}")
    return keys


def new_key(name: str) -> tuple[str, Key]:
    """A random key's text, and its entry. Raises `ValueError` if the name cannot be one."""
    text = secrets.token_urlsafe(32)
    return text, Key.parse(f"{name}:{text}")


class KeyRing:
    """The keys that are accepted."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def name_of(self, text: bytes) -> str | None:
        """The name of the key; None if it is unknown. Takes the same time for every key."""
        digest = _sha256(text)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key.name
        return found


def _sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()
