"""The model card: an evaluation's figures as Markdown tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from upscaled_bench.evaluation.edges import Field, Line, score_fields, score_lines
from upscaled_bench.evaluation.enlargers import Enlarger
from upscaled_bench.evaluation.measures import Score, score
from upscaled_bench.evaluation.trials import KINDS, Picture

RIVAL = "Lanczos"
"""What gains are over."""


@dataclass(frozen=True)
class Evaluation:
    """All figures of some enlargers of one scale."""

    scale: int
    names: list[str]  # of the enlargers
    pictures: list[Picture]
    conditions: list[str]
    scores: dict[tuple[str, str, str], Score]  # by enlarger, condition and picture
    lines: dict[str, list[Line]]
    fields: dict[str, list[Field]]
    choices: dict[tuple[str, str, str], str]  # models, by enlarger that chooses, condition, picture

    @classmethod
    def run(
        cls, enlargers: Sequence[Enlarger], pictures: list[Picture], conditions: list[str]
    ) -> Evaluation:
        """Enlarge every picture in every condition. `enlargers` have one scale and `RIVAL`."""
        scale = enlargers[0].scale
        scores, choices = {}, {}
        for picture in pictures:
            truth = picture.truth(scale)
            for condition in conditions:
                small = picture.reduced(scale, condition)
                for one in enlargers:
                    key = (one.name, condition, picture.name)
                    scores[key] = score(truth, one.enlarge(small), scale)
                    if one.chosen is not None:
                        choices[key] = one.chosen(small)
        return cls(
            scale,
            [one.name for one in enlargers],
            pictures,
            conditions,
            scores,
            {one.name: score_lines(one.enlarge, scale) for one in enlargers},
            {one.name: score_fields(one.enlarge, scale) for one in enlargers},
            choices,
        )

    def of_kind(self, kind: str) -> list[str]:
        return [picture.name for picture in self.pictures if picture.kind == kind]

    def gains(
        self, name: str, condition: str, pictures: list[str], figure: Callable[[Score], float]
    ) -> list[float]:
        """What `name` gains over `RIVAL` in a figure, for each of `pictures`."""
        return [
            figure(self.scores[name, condition, picture])
            - figure(self.scores[RIVAL, condition, picture])
            for picture in pictures
        ]


def card(evaluation: Evaluation) -> str:
    """All tables, with a heading and a line of explanation each."""
    count = len(evaluation.of_kind("photograph"))
    method = (
        f"Over {count} photographs, reduced with Pillow's antialiased bicubic in 8 bits and "
        f"enlarged again, without a border of {evaluation.scale} pixels. PSNR in dB; gains are "
        f"over {RIVAL}; *least* is the worst photograph. *Lines* are the worst that a channel "
        "passes both colours beside an edge, below and above; *fields* the worst difference in a "
        "flat field, in the outermost pixels and inside; both in levels of 255, and 0 is right."
    )
    parts = [
        f"## Enlarging {evaluation.scale} times",
        method,
        _summary(evaluation),
        "### Reduced in other ways, and damaged",
        f"Gain in PSNR over {RIVAL}, luma in brackets, mean and least. JPEG with 4:2:0 colours.",
        _by_condition(evaluation),
        *_choices(evaluation),
        "### Every picture",
        f"PSNR over red, green and blue, {evaluation.conditions[0]}.",
        _every_picture(evaluation),
        "### Lines beside edges",
        "Below and above both colours of an edge, in levels.",
        _lines(evaluation),
        "### Flat fields",
        "Difference from the field's colour in the outermost pixels, and inside, in levels.",
        _fields(evaluation),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(head), *(list(row) for row in rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _summary(evaluation: Evaluation) -> str:
    names = evaluation.of_kind("photograph")
    condition = evaluation.conditions[0]
    rows = []
    for name in evaluation.names:
        scores = [evaluation.scores[name, condition, picture] for picture in names]
        rgb = evaluation.gains(name, condition, names, lambda one: one.psnr_rgb)
        luma = evaluation.gains(name, condition, names, lambda one: one.psnr_luma)
        lines, fields = evaluation.lines[name], evaluation.fields[name]
        rows.append(
            [
                name,
                f"{_mean([one.psnr_rgb for one in scores]):.2f}",
                f"{_mean(rgb):+.2f}",
                f"{min(rgb):+.2f} ({names[rgb.index(min(rgb))]})",
                f"{_mean([one.psnr_luma for one in scores]):.2f}",
                f"{_mean(luma):+.2f}",
                f"{min(luma):+.2f}",
                f"{_mean([one.ssim_rgb for one in scores]):.4f}",
                f"{_mean([one.ssim_luma for one in scores]):.4f}",
                f"{max(line.below for line in lines)}, {max(line.above for line in lines)}",
                f"{max(one.outermost for one in fields)}, {max(one.inside for one in fields)}",
            ]
        )
    head = ["", "RGB", "gain", "least", "luma", "gain", "least", "SSIM RGB", "SSIM luma"]
    return _table([*head, "lines", "fields"], rows)


def _by_condition(evaluation: Evaluation) -> str:
    others = [name for name in evaluation.names if name != RIVAL]
    rows = []
    for kind in KINDS:
        pictures = evaluation.of_kind(kind)
        for condition in evaluation.conditions if pictures else ():
            row = [f"{kind}, {condition}"]
            for name in others:
                rgb = evaluation.gains(name, condition, pictures, lambda one: one.psnr_rgb)
                luma = evaluation.gains(name, condition, pictures, lambda one: one.psnr_luma)
                mean = f"{_mean(rgb):+.2f} ({_mean(luma):+.2f})"
                row.append(f"{mean}, least {min(rgb):+.2f} ({min(luma):+.2f})")
            rows.append(row)
    return _table(["", *others], rows)


def _choices(evaluation: Evaluation) -> list[str]:
    """For each enlarger that chooses among models: a heading, its gains and what it chose."""
    parts = []
    for name in sorted({key[0] for key in evaluation.choices}):
        rows = []
        for kind in KINDS:
            pictures = evaluation.of_kind(kind)
            for condition in evaluation.conditions if pictures else ():
                rgb = evaluation.gains(name, condition, pictures, lambda one: one.psnr_rgb)
                luma = evaluation.gains(name, condition, pictures, lambda one: one.psnr_luma)
                chosen = Counter(evaluation.choices[name, condition, one] for one in pictures)
                counts = ", ".join(f"{model} {count}" for model, count in chosen.most_common())
                figures = (_mean(rgb), min(rgb), _mean(luma), min(luma))
                rows.append([f"{kind}, {condition}", *(f"{one:+.2f}" for one in figures), counts])
        head = ["", "gain RGB", "least", "gain luma", "least", "chosen"]
        explained = (
            f"Gain in PSNR over {RIVAL}, mean and least, and for how many pictures which model was "
            "chosen. The pictures were judged by their pixels alone, as PNG."
        )
        parts += [f"### The model `{name}`", explained, _table(head, rows)]
    return parts


def _every_picture(evaluation: Evaluation) -> str:
    condition = evaluation.conditions[0]
    return _table(
        ["", *evaluation.names],
        (
            [
                picture.name,
                *(
                    f"{evaluation.scores[name, condition, picture.name].psnr_rgb:.2f}"
                    for name in evaluation.names
                ),
            ]
            for picture in evaluation.pictures
        ),
    )


def _lines(evaluation: Evaluation) -> str:
    names = evaluation.names
    rows = zip(*(evaluation.lines[name] for name in names), strict=True)
    return _table(
        ["", *names], ([row[0].name, *(f"{one.below}, {one.above}" for one in row)] for row in rows)
    )


def _fields(evaluation: Evaluation) -> str:
    names = evaluation.names
    rows = zip(*(evaluation.fields[name] for name in names), strict=True)
    return _table(
        ["", *names],
        ([row[0].name, *(f"{one.outermost}, {one.inside}" for one in row)] for row in rows),
    )
