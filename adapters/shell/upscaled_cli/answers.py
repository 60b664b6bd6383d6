"""What `upscaled upscale` prints: its progress, and a line per ended picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upscaled.messages import Message
from upscaled_cli.config import by_options
from upscaled_cli.progress import Progress
from upscaled_cli.sizes import effective_dpi, paper_remark
from upscaled_cli.streams import STREAM, write_stdout
from upscaled_protocol.errors import ErrorCode


class Answers:
    """Prints the daemon's answers, for a person or as JSON, and counts the pictures that failed.

    stdout: the file with the picture for stdout; None if none goes there.
    """

    def __init__(
        self, options: argparse.Namespace, configs: Sequence[dict[str, Any]], stdout: Path | None
    ) -> None:
        self._stdout = stdout
        self.failed = 0
        self.interrupted = False
        self._options = options
        self._config = configs[0]
        # If the picture goes to stdout, nothing else does.
        self._stream = sys.stderr if options.output == STREAM else sys.stdout
        self._names: dict[str, str] = {}
        self._progress = Progress(len(configs))

    def expect(self, job_id: str, name: str) -> None:
        """Remember the name of this job's picture."""
        self._names[job_id] = name

    def refuse(self, name: str, sentence: str) -> None:
        """Report a picture that cannot become a job."""
        self.failed += 1
        self._progress.end(None, is_failure=True)
        if self._options.json:
            answer: dict[str, object] = {"input": name, "type": "error", "job_id": None}
            answer |= {"error": sentence, "code": ErrorCode.INVALID_JOB, "retryable": False}
            self._progress.say(json.dumps(answer), sys.stdout)
        else:
            self._progress.say(f"{name}: {sentence}", sys.stderr)

    def take(self, message: Message) -> None:
        """Show one message of the daemon."""
        kind, job_id = message.get("type"), str(message.get("job_id"))
        if kind == "status" and message.get("message") == "loading_models":
            self._progress.starting()
        elif kind == "status" and message.get("message") == "degraded":
            self._progress.say(f"upscaled: {message.get('detail')}", sys.stderr)
        elif kind == "progress" and job_id in self._names:
            self._progress.advance(job_id, self._names[job_id], message)
        elif kind in ("result", "error") and job_id in self._names:
            self._progress.end(job_id, is_failure=kind == "error")
            self._end(self._names[job_id], message)
        elif kind == "error" and not self.interrupted:
            self.failed += 1
            self._progress.say(f"upscaled: {message.get('error')}", sys.stderr)

    def tick(self) -> None:
        """Show the time that has passed since the last message."""
        self._progress.tick()

    def _end(self, name: str, message: Message) -> None:
        self.failed += message["type"] == "error"
        if self._stdout is not None and message["type"] == "result":
            write_stdout(self._stdout)  # it may be full, or its reader gone
        if self._options.json:
            self._progress.say(json.dumps({"input": name, **message}), sys.stdout)
        elif message["type"] == "result":
            for line in (_success(name, message, self._options), *self._remarks(message)):
                self._progress.say(line, self._stream)
        elif not self.interrupted:
            sentence = by_options(str(message.get("error")), self._options)
            self._progress.say(f"{name}: {sentence}", sys.stderr)

    def _remarks(self, message: Message) -> list[str]:
        remarks = [f"  {warning}" for warning in message.get("warnings", [])]
        if message.get("model_reason"):
            remarks.append(f"  {message.get('model')}: {message['model_reason']}")
        if (faces := message.get("faces")) is not None:
            remarks.append(f"  {_found(faces)}")
        size = message.get("input_size")
        dpi = effective_dpi(self._config, size["width"], size["height"]) if size else None
        if dpi is not None:
            remarks.append(f"  effective resolution {dpi:.0f} dpi: the input's pixels per inch")
        if (remark := paper_remark(self._options, size)) is not None:
            remarks.append(f"  {remark}")
        crop = message.get("crop_info")
        if crop and self._options.crop is None:
            inches = f" ({crop['amount_inches']:.2f} in)" if "amount_inches" in crop else ""
            side = "taller" if crop["direction"] == "vertical" else "wider"
            remarks.append(
                f"  the picture is {crop['amount_px']} px{inches} {side} than the target; "
                "--crop center cuts it"
            )
        return remarks

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()


def _found(faces: Sequence[Mapping[str, Any]]) -> str:
    """`faces: 3 found, 2 restored, 1 too small`"""
    reasons = Counter(face.get("why") for face in faces if not face["restored"])
    restored = len(faces) - reasons.total()
    left = [f"{number} {why}" for why, number in reasons.items()]
    return ", ".join([f"faces: {len(faces)} found", f"{restored} restored", *left])


def _success(name: str, message: Message, options: argparse.Namespace) -> str:
    def size(key: str) -> str:
        pixels = message.get(key)
        return f" {pixels['width']}x{pixels['height']}" if pixels else ""

    written = message.get("output_path") or message.get("output_url")
    output = "stdout" if options.output == STREAM else written
    return (
        f"{name}{size('input_size')} -> {output}{size('output_size')} "
        f"in {message['processing_time']:.1f} s"
    )
