"""A small WebP of a result, for browsers: they show no TIFF, and no very large picture.

Another process makes it, so that it takes no memory and no time of the server.

    python -m upscaled_http.preview RESULT PREVIEW SIDE
"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from upscaled_http.storage import Storage

# The sizes of the longest side. With a free choice a client could fill the disk.
SIDES = (256, 512, 1024, 1600, 2560)
MEDIA_TYPE = "image/webp"

# Each process decodes a picture that may have a thousand megapixels.
_AT_ONCE = 2
_TIMEOUT_S = 120.0
_QUALITY = 82


class PreviewError(Exception):
    """Raised if no preview can be made of a file."""


class Previews:
    """Makes each preview once. It stays beside its result until that is removed."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._making: dict[Path, asyncio.Task[None]] = {}

    async def path(self, file_name: str, side: int) -> Path:
        """The preview of a result. Raises `PreviewError`."""
        source = self._storage.result(file_name)
        target = self._storage.result(f"{source.stem}.preview-{side}.webp")
        if not target.exists():
            making = self._making.get(target)
            if making is None:
                making = self._making[target] = asyncio.create_task(
                    self._make(source, target, side)
                )
                making.add_done_callback(lambda _: self._making.pop(target))
            # If a client leaves, another one may still wait for the preview.
            await asyncio.shield(making)
        return target

    async def _make(self, source: Path, target: Path, side: int) -> None:
        async with self._places:
            await _run(source, target, side)
            with suppress(OSError):  # its result was removed meanwhile
                self._storage.note_result(target)


async def _run(source: Path, target: Path, side: int) -> None:
    part = target.with_suffix(".part")
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "upscaled_http.preview",
        str(source),
        str(part),
        str(side),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            status = await process.wait()
    except BaseException as error:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        part.unlink(missing_ok=True)
        if isinstance(error, TimeoutError):
            raise PreviewError from None
        raise
    if status != 0:
        part.unlink(missing_ok=True)
        raise PreviewError
    if not source.exists():  # removed meanwhile, and the previews that there were with it
        part.unlink(missing_ok=True)
        raise PreviewError
    part.rename(target)


def _main(source: str, target: str, side: int) -> None:
    os.umask(0o077)
    import pyvips

    image = pyvips.Image.thumbnail(source, side, height=side, size="down")
    image.webpsave(target, Q=_QUALITY, keep="icc")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
