"""`upscaled pipeline run`: pictures of this machine through the pipeline, here and now."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from upscaled import AsyncUpscaler
from upscaled.errors import UpscaledError
from upscaled_queue.pipeline.bucket import Bucket, StorageUnavailableError
from upscaled_queue.pipeline.process import (
    DEFAULT_SCALE,
    DEFAULT_THRESHOLD,
    Picture,
    Pipeline,
    PipelineResult,
)
from upscaled_queue.pipeline.scores import SCORES, Score, find_score

_EXIT_OK = 0
_EXIT_SOME_FAILED = 1
_EXIT_INTERRUPTED = 130

_EXAMPLES = """\
A picture that scores at least the threshold is stored as it is, in good_quality/. Others are
upscaled and stored in upscaled/. If that fails, the original is stored in couldn't_upscale/. The
result of each picture is a line of JSON on stdout, and results/JOB_ID.json in the bucket. A
picture that was processed before is not processed again.

examples:
  upscaled pipeline run --bucket s3://pictures holiday/*.jpg
  upscaled pipeline run --bucket gs://pictures/shop --threshold 0.3 --scale 2 photo.jpg
  upscaled pipeline run --bucket s3://pictures --score effective-resolution *.png
  AWS_ENDPOINT_URL=http://minio:9000 AWS_ALLOW_HTTP=true upscaled pipeline run ...

exit status: 0 every picture is stored, 1 some could not be upscaled or stored, 2 wrong usage,
130 interrupted.
"""


def main(argv: Sequence[str]) -> int:
    """Process the pictures; the exit status."""
    arguments = parser()
    options = arguments.parse_args(argv)
    try:
        bucket = Bucket(options.bucket)
        score = find_score(options.score)
    except ValueError as error:
        arguments.error(str(error))
    except ImportError:
        arguments.error("buckets need the extra [storage]: pip install 'upscaled[storage]'")
    try:
        return asyncio.run(_run(options, bucket, score))
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
        description="Process pictures of this machine, here and now.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = run.add_argument
    add("pictures", type=Path, nargs="+", metavar="PICTURE")
    add(
        "--bucket",
        required="S3_BUCKET" not in os.environ,
        default=_bucket_of(os.environ.get("S3_BUCKET")),
        metavar="URL",
        help="s3://, gs:// or az:// (default: S3_BUCKET)",
    )
    add(
        "--threshold",
        type=float,
        default=os.environ.get("QUALITY_THRESHOLD") or str(DEFAULT_THRESHOLD),
        help="a picture of this score is kept as it is (default: QUALITY_THRESHOLD or "
        f"{DEFAULT_THRESHOLD:g})",
    )
    add(
        "--scale",
        type=int,
        choices=(2, 4),
        default=os.environ.get("UPSCALE_SCALE") or str(DEFAULT_SCALE),
        help=f"default: UPSCALE_SCALE or {DEFAULT_SCALE}",
    )
    add(
        "--score",
        default="resolution",
        metavar="NAME",
        help=f"{', '.join(SCORES)}, or your own as module:function (default: %(default)s)",
    )
    add("--model", help="a catalogue name or a file (default: the bundled model of the scale)")
    add("--slots", type=_count, default=2, help="pictures at once (default: %(default)s)")
    return arguments


async def _run(options: argparse.Namespace, bucket: Bucket, score: Score) -> int:
    slots = asyncio.Semaphore(options.slots)
    model = options.model or f"compact-x{options.scale}"
    has_failed = False
    async with AsyncUpscaler() as upscaler:

        async def upscale(path: Path, output: Path) -> None:
            await upscaler.upscale(path, output, factor=options.scale, model=model)

        pipeline = Pipeline(bucket, upscale, score, options.threshold, options.scale)

        async def one(path: Path) -> PipelineResult | str:
            async with slots:
                try:
                    return await pipeline.process(Picture.of_file(path))
                except OSError as error:
                    return f"{path} cannot be read: {error.strerror or error}"
                except StorageUnavailableError as error:
                    return f"{path}: {bucket.url} cannot be used: {error}"
                except UpscaledError as error:
                    return f"{path}: {error}"

        tasks = [asyncio.create_task(one(path)) for path in options.pictures]
        with tqdm(total=len(tasks), unit="picture", disable=not sys.stderr.isatty()) as bar:
            for done in asyncio.as_completed(tasks):
                result = await done
                bar.update()
                if isinstance(result, str):
                    has_failed = True
                    tqdm.write(f"upscaled pipeline: {result}", file=sys.stderr)
                    continue
                has_failed = has_failed or result.status == "error"
                print(json.dumps(result.fields, ensure_ascii=False), flush=True)  # noqa: T201
    return _EXIT_SOME_FAILED if has_failed else _EXIT_OK


def _bucket_of(name: str | None) -> str | None:
    """S3_BUCKET as a URL: it may be a bare name."""
    return name if not name or "://" in name else f"s3://{name}"


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
