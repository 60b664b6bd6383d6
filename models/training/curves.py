"""Draw training logs as curves: an SVG with the loss and the gains over Lanczos, by step.

python models/training/curves.py .cache/training/compact-x4.jsonl --out curves-x4.svg
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

FIGURES = {
    "loss": "loss",
    "gain_rgb": "gain over Lanczos in RGB, dB",
    "gain_luma": "gain over Lanczos in luma, dB",
    "gain_luma_jpeg": "the same from JPEGs at quality 50, dB",
    "below": "worst line below both colours of an edge, levels",
    "outermost": "worst outermost pixel of a flat field, levels",
}
"""What is drawn, each in a panel of its own; those that the log lacks are left out."""

_WIDTH, _HEIGHT = 640, 130
_LEFT, _TOP = 70, 24


def draw_curves(log: Path) -> str:
    """The SVG of a log that `train.py` wrote. Raises ValueError if no step is in it."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    panels: list[str] = []
    for key, title in FIGURES.items():
        points = [(line["step"], float(line[key])) for line in lines if key in line]
        if points:
            panels.append(_panel(title, points, len(panels) * (_HEIGHT + 2 * _TOP)))
    if not panels:
        raise ValueError(f"{log} holds no step yet: train for longer")
    height = len(panels) * (_HEIGHT + 2 * _TOP)
    size = f'width="{_WIDTH + _LEFT + 20}" height="{height}"'
    style = 'font-family="sans-serif" font-size="12"'
    background = '<rect width="100%" height="100%" fill="white"/>'
    body = "\n".join([background, *panels])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{body}\n</svg>\n'


def _panel(title: str, points: list[tuple[int, float]], top: int) -> str:
    """One curve in a frame, with its lowest and highest value and its last step."""
    values = [value for _, value in points]
    low, high, last = min(values), max(values), max(points[-1][0], 1)
    span = high - low or 1.0
    path = " ".join(
        f"{_LEFT + _WIDTH * step / last:.1f},{top + _TOP + _HEIGHT * (high - value) / span:.1f}"
        for step, value in points
    )
    frame = f'x="{_LEFT}" y="{top + _TOP}" width="{_WIDTH}" height="{_HEIGHT}"'
    texts = [
        (_LEFT, top + _TOP - 6, "start", f"{title}; now {values[-1]:.4g}"),
        (_LEFT - 6, top + _TOP + 10, "end", f"{high:.4g}"),
        (_LEFT - 6, top + _TOP + _HEIGHT, "end", f"{low:.4g}"),
        (_LEFT + _WIDTH, top + _TOP + _HEIGHT + 14, "end", f"step {last}"),
    ]
    return "\n".join(
        [
            f'<rect {frame} fill="none" stroke="silver"/>',
            f'<polyline points="{path}" fill="none" stroke="navy"/>',
            *(
                f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
                for x, y, anchor, text in texts
            ),
        ]
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Draw one log."""
    parser = argparse.ArgumentParser(prog="curves.py", description="Draw a training log as an SVG.")
    parser.add_argument("log", type=Path, help="NAME.jsonl that train.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="SVG to write")
    arguments = parser.parse_args(argv)
    arguments.out.write_text(draw_curves(arguments.log), encoding="utf-8")


if __name__ == "__main__":
    main()
