"""One picture through the pipeline: score, route, file, record, in that order.

    record there? ──yes──> the recorded result
      │ no
    score >= threshold ──yes──> the original in good_quality/
      │ no
    upscale ──works──> the result in upscaled/
      └─────fails──> the original in couldn't_upscale/

A picture may be processed twice at once, because a queue delivers a job again if its machine is
killed. The record is written only if there is none, so one attempt wins; each attempt then deletes
what it may have left in a folder that the record does not name.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from upscaled.errors import UpscaledError
from upscaled_protocol.choices import FORMATS
from upscaled_queue.pipeline.bucket import (
    FAILED,
    FOLDERS,
    GOOD,
    INCOMING,
    UPSCALED,
    BadRecordError,
    Bucket,
)
from upscaled_queue.pipeline.scores import NoScoreError, Score

DEFAULT_THRESHOLD = 0.5
DEFAULT_SCALE: Final = 4

# The codes of a picture that cannot be upscaled. Any other error has a cause elsewhere (a wrong
# model, a full disk, no daemon, a device that does not work), so the picture is not filed because
# of it.
_PICTURE_CODES = frozenset(
    {
        "input_unreadable",
        "input_too_large",
        "unsupported_format",
        "out_of_memory",
        "deadline_exceeded",
        "stalled",
        "poisoned",
    }
)

# `faces` of the protocol's result, in its JSON form.
Faces = list[dict[str, Any]] | None
# Upscales the first file to the second: the faces that were found, None if none were looked for.
# Raises `UpscaledError`.
Upscale = Callable[[Path, Path], Awaitable[Faces]]


@dataclass(frozen=True)
class Picture:
    """One picture, by its key in the bucket's folders.

    path: the local file, None if the picture is in the bucket, as `incoming/KEY`.
    """

    key: str
    path: Path | None = None

    @classmethod
    def of_file(cls, path: Path, name: str | None = None) -> Picture:
        """A local picture. Its key has a digest of the content, so that pictures of one name do
        not replace each other, and the same picture is processed once. Raises `OSError`."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        named = Path(name or path.name)
        stem = re.sub(r"[^\w.-]+", "_", named.stem)[:80].strip(".") or "picture"
        return cls(f"{stem}-{digest}{named.suffix.lower()[:8]}", path)


@dataclass(frozen=True)
class PipelineResult:
    """How a picture was filed.

    quality_score: None if the file could not be scored. upscale_scale: None if the picture was not
    upscaled. code: the protocol's code of the error, None on success. faces: those of the upscaled
    picture, each with whether it was restored; None if none were looked for.
    """

    original_key: str
    status: Literal["success", "error"]
    folder: str
    s3_url: str
    quality_score: float | None
    upscale_scale: int | None
    processed_at: str
    job_id: str
    code: str | None = None
    faces: Faces = None
    message: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """As JSON has it: `{success, message, result}`."""
        result = asdict(self)
        message = result.pop("message")
        return {"success": self.status == "success", "message": message, "result": result}

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> PipelineResult:
        """The result in its JSON form, without the fields of later versions."""
        known = {name: value for name, value in fields["result"].items() if name in _FIELDS}
        return cls(**known, message=fields["message"])


_FIELDS = PipelineResult.__dataclass_fields__.keys()


async def result_of(bucket: Bucket, job_id: str) -> PipelineResult | None:
    """The recorded result of a picture; None if it has none yet. Raises `ObjectStorageError`, and
    `BadRecordError` if another program has written something in its place."""
    recorded = await bucket.record(job_id)
    if recorded is None:
        return None
    try:
        return PipelineResult.of_fields(recorded)
    except (AttributeError, KeyError, TypeError):
        raise BadRecordError(job_id) from None


@dataclass(frozen=True)
class Pipeline:
    """Processes pictures.

    upscale: upscales one file to another, `scale` times. threshold: a picture of this score is kept
    as it is. scratch: the folder for temporary files, the system's if None. on_recorded: called
    with each result that is new, once per picture.
    """

    bucket: Bucket
    upscale: Upscale
    score: Score
    threshold: float = DEFAULT_THRESHOLD
    scale: int = DEFAULT_SCALE
    scratch: Path | None = None
    on_recorded: Callable[[PipelineResult], None] | None = None

    async def process(self, picture: Picture) -> PipelineResult:
        """Process one picture; one that was processed before gives its recorded result.

        A picture that cannot be upscaled has a result of the status `error`. Raises
        `ObjectStorageError`, `ScoreFailedError`, `FileNotFoundError` (no such picture in the
        bucket), and the upscaler's `UpscaledError` if the picture is not the reason. Then the
        picture can be processed again.
        """
        job_id = picture.key
        recorded = await result_of(self.bucket, job_id)
        if recorded is None:
            try:
                with tempfile.TemporaryDirectory(
                    prefix="upscaled-pipeline-", dir=self.scratch
                ) as folder:
                    result = await self._route(picture, Path(folder))
            except FileNotFoundError:
                # Another attempt may have ended meanwhile, and deleted the incoming picture.
                recorded = await result_of(self.bucket, job_id)
                if recorded is None:
                    raise
            else:
                if not await self.bucket.write_record(job_id, result.fields):
                    recorded = await result_of(self.bucket, job_id)
                elif self.on_recorded is not None:
                    self.on_recorded(result)
        if recorded is not None:
            result = recorded
        await self._tidy(picture.key, result)
        return result

    async def _route(self, picture: Picture, scratch: Path) -> PipelineResult:
        key = picture.key
        path = picture.path
        if path is None:
            path = scratch / f"original{Path(key).suffix}"
            await self.bucket.read(f"{INCOMING}/{key}", path)
        quality: float | None = None
        # The upscaler reads more formats, and says what is wrong with other files.
        with suppress(NoScoreError):
            quality = round(await asyncio.to_thread(self.score, path), 6)
        if quality is not None and quality >= self.threshold:
            message = f"The picture is good enough: it scores {quality:.3f}."
            return await self._file(GOOD, path, key, key, quality, message)
        upscaled_key = _upscaled_key(key)
        output = scratch / f"upscaled{Path(upscaled_key).suffix}"
        try:
            faces = await self.upscale(path, output)
        except UpscaledError as error:
            if error.code not in _PICTURE_CODES:
                raise
            # The record outlives the machine, so the machine's path is replaced by the key.
            message = str(error).replace(str(path), key)
            return await self._file(FAILED, path, key, key, quality, message, error.code)
        message = f"The picture was upscaled {self.scale} times."
        filed = await self._file(UPSCALED, output, upscaled_key, key, quality, message)
        return replace(filed, faces=faces)

    async def _file(  # noqa: PLR0917 - the fields of one result
        self,
        folder: str,
        path: Path,
        name: str,
        key: str,
        quality: float | None,
        message: str,
        code: str | None = None,
    ) -> PipelineResult:
        """Store a file in a folder of the bucket."""
        place = f"{folder}/{name}"
        await self.bucket.write(place, path)
        return PipelineResult(
            original_key=key,
            status="success" if code is None else "error",
            folder=folder,
            s3_url=self.bucket.url_of(place),
            quality_score=quality,
            upscale_scale=self.scale if folder == UPSCALED else None,
            processed_at=datetime.now(UTC).isoformat(timespec="seconds"),
            job_id=key,
            code=code,
            message=message,
        )

    async def _tidy(self, key: str, result: PipelineResult) -> None:
        """Delete what an attempt that lost may have left, and the incoming picture."""
        for folder in FOLDERS:
            if folder != result.folder:
                name = _upscaled_key(key) if folder == UPSCALED else key
                await self.bucket.delete(f"{folder}/{name}")
        await self.bucket.delete(f"{INCOMING}/{key}")


def _upscaled_key(key: str) -> str:
    """The key of the upscaled picture: PNG if the original's format is not written."""
    path = Path(key)
    return key if path.suffix.lower() in FORMATS else f"{path.stem}.png"
