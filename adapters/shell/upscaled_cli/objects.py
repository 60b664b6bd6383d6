"""Pictures in an object storage: s3://, gs:// and az:// in place of a file."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from upscaled_imaging.urlaccess import url_prefix

_SCHEMES = ("s3://", "gs://", "az://")
_URLS = ("image_url", "output_url")
_OUTPUTS = frozenset({"output_path", "output_base64", "output_url"})


def is_object(given: str | None) -> bool:
    """True if this names an object, and no file."""
    return given is not None and given.startswith(_SCHEMES)


def check_objects(options: argparse.Namespace, config: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a URL names no object, or an object has no output or the wrong one."""
    output, pictures = options.output, len(options.inputs)
    inputs = [given for given in options.inputs if is_object(given)]
    for url in [*inputs, output] if is_object(output) else inputs:
        parts = urlsplit(url)
        if not parts.netloc or not parts.path.strip("/") or url.endswith("/"):
            raise ValueError(
                f"{url} names no object: give a bucket and a name, as in "
                f"{parts.scheme}://bucket/photo.png"
            )
    if is_object(output) and pictures > 1:
        raise ValueError(
            f"-o {output} is one object for {pictures} pictures: run the command for each picture"
        )
    is_chosen = output is not None or bool(_OUTPUTS & config.keys())
    if inputs and not is_chosen and not os.environ.get("OUTPUT_DIR"):
        raise ValueError(
            f"{inputs[0]} has no folder for its output: give -o FILE, or an object, as in -o "
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
