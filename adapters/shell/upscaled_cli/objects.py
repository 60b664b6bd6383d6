"""Pictures in an object storage: s3://, gs:// and az:// in place of a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import urlsplit

from upscaled_cli.streams import STREAM
from upscaled_imaging.freename import fitting, numbered
from upscaled_imaging.urlaccess import url_prefix

_SCHEMES = ("s3://", "gs://", "az://")
_WEB = ("https://", "http://")
_URLS = ("image_url", "output_url")
# As that of a file: copies of the bucket can be made.
_LONGEST_NAME = 255
_SPECIAL = "?#%\\"
_OUTPUTS = frozenset({"output_path", "output_base64", "output_url"})


def is_object(given: str | None) -> bool:
    """True if this names an object, and no file."""
    return given is not None and given.startswith(_SCHEMES)


def is_url(given: str) -> bool:
    """True if a picture with this name is fetched: from a bucket, or from the public internet."""
    return given.startswith((*_SCHEMES, *_WEB))


def is_object_folder(given: str | None) -> bool:
    """True if this names a folder of a bucket, or the bucket itself."""
    return given is not None and is_object(given) and given.endswith("/")


def object_names(inputs: Sequence[str], method: str, suffix: str) -> list[str]:
    """A name for the output of each picture in a folder of a bucket, such as `photo_esrgan.png`.

    They depend on the command alone, so that the same command writes the same objects again.
    Pictures of one name get a number. Characters that a URL gives a meaning become `_`.
    """
    names: dict[str, None] = {}
    for given in inputs:
        stem = "stdin" if given == STREAM else PurePath(given).stem
        plain = "".join(one if one.isprintable() and one not in _SPECIAL else "_" for one in stem)
        free = numbered(fitting(plain, f"_{method}{suffix}", _LONGEST_NAME), _LONGEST_NAME)
        names[next(name for name in free if name not in names)] = None
    return list(names)


def check_objects(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a URL names no object, or an object has no output or the wrong one."""
    output, pictures = options.output, len(options.inputs)
    inputs = [given for given in options.inputs if is_object(given)]
    for url in [*inputs, output] if is_object(output) else inputs:
        parts = urlsplit(url)
        is_named = parts.path.strip("/") and not url.endswith("/")
        if not parts.netloc or not (is_named or (url == output and is_object_folder(output))):
            raise ValueError(
                f"{url} names no object: give a bucket and a name, as in "
                f"{parts.scheme}://bucket/photo.png"
            )
    if is_object(output) and pictures > 1 and not is_object_folder(output):
        raise ValueError(
            f"-o {output} is one object for {pictures} pictures: give a folder, which ends in /, "
            "as in -o s3://bucket/large/"
        )
    is_chosen = output is not None or bool(_OUTPUTS & config.keys())
    fetched = [given for given in options.inputs if is_url(given)]
    if fetched and not is_chosen and not os.environ.get("OUTPUT_DIR"):
        raise ValueError(
            f"{fetched[0]} has no folder for its output: give -o FILE, or an object, as in -o "
            "s3://bucket/large.png"
        )


def allow_options(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The daemon's options that allow the buckets of these jobs, and no others. Raises `ValueError`
    if a package is missing."""
    urls = [config[field] for config in configs for field in _URLS if field in config]
    parts = [urlsplit(url) for url in urls if is_object(url)]
    buckets = dict.fromkeys(f"{one.scheme}://{one.netloc}/" for one in parts)
    try:
        return [f"--allow-url={url_prefix(bucket)}" for bucket in buckets]
    except argparse.ArgumentTypeError as error:
        raise ValueError(str(error)) from None
