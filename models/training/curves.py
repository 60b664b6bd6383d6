"""Draw training logs as curves: an SVG with the loss and the gains over Lanczos, by step.

python models/training/curves.py .cache/training/compact-x4.jsonl --out curves-x4.svg

If a model was trained in several stages, their logs are drawn one after the other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from html import escape
from itertools import accumulate
from pathlib import Path
from statistics import fmean
from typing import Any

FIGURES = {
    "loss": "loss",
    "gain_rgb": "gain over Lanczos in RGB, dB",
    "gain_luma": "gain over Lanczos in luma, dB",
    "gain_luma_jpeg": "the same from JPEGs at quality 50, dB",
    "below": "worst line below both colours of an edge, levels",
    "outermost": "worst outermost pixel of a flat field, levels",
}
"""What is drawn, each in a panel of its own; those that the log lacks are left out."""

_POINTS = 200
"""The most points of a curve; of a longer log each is the mean of some lines."""

_WIDTH, _HEIGHT = 640, 130
_LEFT, _TOP = 70, 24


def draw_curves(logs: Sequence[Path]) -> str:
    """The SVG of the logs of a model's stages, which `train.py` wrote.

    Raises ValueError if a log holds no step.
    """
    stages = [_lines(log) for log in logs]
    ends = list(accumulate(max(line["step"] for line in stage) for stage in stages))
    lines = [
        {**line, "step": line["step"] + begins}
        for stage, begins in zip(stages, [0, *ends], strict=False)
        for line in stage
    ]
    panels: list[str] = []
    for key, title in FIGURES.items():
        points = [(line["step"], float(line[key])) for line in lines if key in line]
        if points:
            top = len(panels) * (_HEIGHT + 2 * _TOP)
            panels.append(_panel(title, _thinned(points), ends, top))
    height = len(panels) * (_HEIGHT + 2 * _TOP)
    size = f'width="{_WIDTH + _LEFT + 20}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    body = "\n".join([background, *panels])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def _lines(log: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    if not any("loss" in line for line in lines):
        raise ValueError(f"{log} holds no step yet: train for longer")
    return lines


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    count = -(-len(points) // _POINTS)
    groups = [points[first : first + count] for first in range(0, len(points), count)]
    return [(group[-1][0], fmean(value for _, value in group)) for group in groups]


def _panel(title: str, points: list[tuple[int, float]], ends: list[int], top: int) -> str:
    """One curve in a frame, with its lowest and highest value, and the last step of each stage."""
    values = [value for _, value in points]
    low, high, last = min(values), max(values), max(ends[-1], 1)
    span = high - low or 1.0
    path = " ".join(
        f"{_LEFT + _WIDTH * step / last:.1f},{top + _TOP + _HEIGHT * (high - value) / span:.1f}"
        for step, value in points
    )
    marks = [(_LEFT + round(_WIDTH * end / last), end) for end in ends]
    frame = f'x="{_LEFT}" y="{top + _TOP}" width="{_WIDTH}" height="{_HEIGHT}"'
    texts = [
        (_LEFT, top + _TOP - 6, "start", f"{title}; now {values[-1]:.4g}"),
        (_LEFT - 6, top + _TOP + 10, "end", f"{high:.4g}"),
        (_LEFT - 6, top + _TOP + _HEIGHT, "end", f"{low:.4g}"),
        *((x, top + _TOP + _HEIGHT + 14, "end", f"step {end}") for x, end in marks),
    ]
    return "\n".join(
        [
            f'<rect {frame} fill="none" stroke="silver"/>',
            *(f'<path d="M{x},{top + _TOP}v{_HEIGHT}" stroke="silver"/>' for x, _ in marks[:-1]),
            f'<polyline points="{path}" fill="none" stroke="navy"/>',
            *(
                f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
                for x, y, anchor, text in texts
            ),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the logs of one model."""
    parser = argparse.ArgumentParser(prog="curves.py", description="Draw training logs as an SVG.")
    parser.add_argument(
        "log", type=Path, nargs="+", help="NAME.jsonl that train.py wrote, one per stage"
    )
    parser.add_argument("--out", type=Path, required=True, help="SVG to write")
    arguments = parser.parse_args(argv)
    arguments.out.write_text(draw_curves(arguments.log), encoding="utf-8")


if __name__ == "__main__":
    main()
