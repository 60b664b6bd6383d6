"""`upscaled pipeline run`: pictures of this machine through the pipeline, here and now or by the
machines of a queue."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from upscaled import AsyncUpscaler
from upscaled.errors import UpscaledError
from upscaled_imaging.storage import ObjectStorageError
from upscaled_protocol.optionvalues import at_least_zero, count, given_path
from upscaled_queue import options as shared
from upscaled_queue.exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from upscaled_queue.pipeline.bucket import BadRecordError, Bucket
from upscaled_queue.pipeline.process import (
    DEFAULT_SCALE,
    DEFAULT_THRESHOLD,
    Faces,
    Picture,
    Pipeline,
    PipelineResult,
)
from upscaled_queue.pipeline.scores import SCORES, Score, ScoreFailedError, find_score
from upscaled_queue.pipeline.task import QueueAwayError, UnsafeQueueError
from upscaled_queue.queueurl import QueueUrl, QueueUrlError, read_queue_url

_EXIT_INTERRUPTED = 130

# Reads a picture, and has it processed: an outer call that returns has room for the next picture.
_Process = Callable[[Path], Awaitable[Awaitable[PipelineResult]]]

_EXAMPLES = """\
A picture that scores at least the threshold is stored as it is, in good_quality/. Others are
upscaled and stored in upscaled/. If that fails, the original is stored in couldn't_upscale/. The
result of each picture is a line of JSON on stdout, and results/JOB_ID.json in the bucket. A
picture that was processed before is not processed again.

examples:
  upscaled pipeline run --bucket s3://pictures holiday/*.jpg
  upscaled pipeline run --bucket gs://pictures/shop --threshold 0.3 --scale 2 photo.jpg
  upscaled pipeline run --bucket s3://pictures --score effective-resolution *.png
  upscaled pipeline run --bucket s3://pictures --queue redis://redis:6379/0 *.jpg
  AWS_ENDPOINT_URL=http://minio:9000 AWS_ALLOW_HTTP=true upscaled pipeline run ...

With --queue, or with UPSCALED_QUEUE_URL set, the pictures go into the bucket's incoming/, and the
machines that serve the method `pipeline` do the rest. An interrupt leaves them in the queue: run
the same again to see their results.

exit status: 0 every picture is stored, 1 some could not be upscaled or stored, or the queue cannot
be reached, 2 wrong usage or a queue that would lose jobs, 130 interrupted.
"""


def main(argv: Sequence[str]) -> int:
    """Process the pictures; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    url: QueueUrl | None = None
    work: AbstractAsyncContextManager[_Process]
    try:
        bucket = Bucket(options.bucket)
        if options.queue:
            url = read_queue_url(options.queue, options.record)
            if ":" not in options.score:  # the user's own is on the machines
                find_score(options.score)
            work = _queued(options, bucket, url)
        else:
            work = _here(options, bucket, find_score(options.score))
    except ValueError as error:
        arguments.error(str(error))
    except ModuleNotFoundError as error:
        return shared.say_missing("upscaled pipeline", error, None)
    try:
        return asyncio.run(_run(options, bucket, work))
    except ModuleNotFoundError as error:
        return shared.say_missing("upscaled pipeline", error, url.engine if url else None)
    except (UnsafeQueueError, QueueUrlError) as error:
        _say(str(error))
        return EXIT_USAGE
    except QueueAwayError as error:
        _say(str(error))
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The command line of `upscaled pipeline`."""
    arguments = argparse.ArgumentParser(
        prog="upscaled pipeline",
        description="Score pictures, upscale those that are too small, and file them in a bucket.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = arguments.add_subparsers(required=True, metavar="run")
    run = commands.add_parser(
        "run",
        help="process pictures of this machine",
        description="Process pictures of this machine, here and now or by the machines of a queue.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = run.add_argument
    add("pictures", type=given_path, nargs="+", metavar="PICTURE")
    add(
        "--bucket",
        required="S3_BUCKET" not in os.environ,
        default=_bucket_of(os.environ.get("S3_BUCKET")),
        metavar="URL",
        help="s3://, gs:// or az:// (default: S3_BUCKET)",
    )
    add(
        "--threshold",
        type=at_least_zero,
        default=os.environ.get("QUALITY_THRESHOLD") or str(DEFAULT_THRESHOLD),
        help="a picture of this score is kept as it is (default: QUALITY_THRESHOLD or "
        f"{DEFAULT_THRESHOLD:g})",
    )
    add(
        "--scale",
        type=_scale,
        metavar="{2,4}",
        default=os.environ.get("UPSCALE_SCALE") or str(DEFAULT_SCALE),
        help=f"default: UPSCALE_SCALE or {DEFAULT_SCALE}",
    )
    add(
        "--score",
        default="resolution",
        metavar="NAME",
        help=f"{', '.join(SCORES)}, or your own as module:function (default: %(default)s)",
    )
    add(
        "--model",
        help="a catalogue name or a file (default: the bundled one that suits the picture)",
    )
    add(
        "--faces",
        action="store_true",
        help="restore the faces of the pictures that are upscaled; needs a face model",
    )
    add(
        "--slots",
        type=count,
        default=2,
        help="pictures at once; with --queue uploads at once (default: %(default)s)",
    )
    shared.add_queue_options(run)
    return arguments


@asynccontextmanager
async def _here(
    options: argparse.Namespace, bucket: Bucket, score: Score
) -> AsyncIterator[_Process]:
    """By a daemon of this machine."""
    config: dict[str, Any] = {} if options.model is None else {"model": options.model}
    if options.faces:
        config["faces"] = True
    async with AsyncUpscaler() as upscaler:

        async def upscale(path: Path, output: Path) -> Faces:
            result = await upscaler.upscale(path, output, factor=options.scale, **config)
            faces: Faces = result.message.get("faces")
            return faces

        pipeline = Pipeline(bucket, upscale, score, options.threshold, options.scale)

        async def process(path: Path) -> Awaitable[PipelineResult]:
            return _ended(await pipeline.process(await _picture(path)))

        yield process


@asynccontextmanager
async def _queued(
    options: argparse.Namespace, bucket: Bucket, url: QueueUrl
) -> AsyncIterator[_Process]:
    """By the machines of a queue. Raises `QueueAwayError` and `UnsafeQueueError`."""
    from upscaled_queue.pipeline.queued import QueuedPipeline
    from upscaled_queue.settings import Settings

    settings = Settings(url=url, queue_prefix=options.queue_prefix)
    pipeline = QueuedPipeline(
        bucket,
        settings,
        threshold=options.threshold,
        scale=options.scale,
        score=options.score,
        model=options.model,
        faces=options.faces,
    )
    if not await pipeline.has_machines():
        _say("no machine takes the pictures yet: start `upscaled work --methods pipeline`")

    async def process(path: Path) -> Awaitable[PipelineResult]:
        return await pipeline.give(await _picture(path))

    yield process


async def _run(
    options: argparse.Namespace, bucket: Bucket, work: AbstractAsyncContextManager[_Process]
) -> int:
    slots = asyncio.Semaphore(options.slots)
    has_failed = False
    async with work as process:

        async def one(path: Path) -> PipelineResult | str:
            try:
                async with slots:
                    result = await process(path)
                return await result
            except OSError as error:
                return f"{path} cannot be read: {error.strerror or error}"
            except BadRecordError as error:
                return f"{path}: in {bucket.url} {error}"
            except ObjectStorageError as error:
                return f"{path}: {bucket.url} cannot be used: {error}"
            except (UpscaledError, ScoreFailedError, QueueAwayError) as error:
                return f"{path}: {error}"

        tasks = [asyncio.create_task(one(path)) for path in options.pictures]
        with tqdm(total=len(tasks), unit="picture", disable=not sys.stderr.isatty()) as bar:
            for done in asyncio.as_completed(tasks):
                result = await done
                bar.update()
                if isinstance(result, str):
                    has_failed = True
                    _say(result)
                    continue
                has_failed = has_failed or result.status == "error"
                print(json.dumps(result.fields, ensure_ascii=False), flush=True)  # noqa: T201
    return EXIT_FAILED if has_failed else EXIT_OK


async def _picture(path: Path) -> Picture:
    return await asyncio.to_thread(Picture.of_file, path)


async def _ended(result: PipelineResult) -> PipelineResult:
    return result


def _scale(text: str) -> Literal[2, 4]:
    """2 or 4, also if the environment has it: `choices` would check the option alone. Raises
    `argparse.ArgumentTypeError`."""
    if text == "2":
        return 2
    if text == "4":
        return 4
    raise argparse.ArgumentTypeError(f"{text!r} is neither 2 nor 4")


def _say(sentence: str) -> None:
    tqdm.write(f"upscaled pipeline: {sentence}", file=sys.stderr)


def _bucket_of(name: str | None) -> str | None:
    """S3_BUCKET as a URL: it may be a bare name."""
    return name if not name or "://" in name else f"s3://{name}"
