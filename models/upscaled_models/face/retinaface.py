"""RetinaFace with MobileNet 0.25, in torch: where a picture has faces, and their five points.

Source: Deng et al., "RetinaFace: Single-Shot Multi-Level Face Localisation in the Wild", 2020, in
the layout of the published weights: batch normalisation is in the convolutions, and the second and
the third branch of a context module begin with the same convolution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

# What the network was trained with: pixels per step of each level's grid, and the sides of the two
# anchors in each cell.
_LEVELS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
# The scales of the offsets and of the sizes relative to an anchor.
_OFFSET, _SIZE = 0.1, 0.2
# Subtracted from blue, green and red, 0 to 255.
_MEAN = (104.0, 117.0, 123.0)
_SLOPE = 0.1
# Strides of the backbone's pairs of a depthwise and a pointwise convolution.
_STAGES = ((1, 2, 1, 2, 1), (2, 1, 1, 1, 1, 1), (2, 1))
_NUMBERED = "onnx::Conv_"


class Candidates(NamedTuple):
    """The anchors that look like a face, in pixels of the network's picture.

    scores: (N,), 0 to 1. boxes: (N, 4), left, top, right, bottom. points: (N, 5, 2).
    """

    scores: NDArray[np.float64]
    boxes: NDArray[np.float64]
    points: NDArray[np.float64]


class _Convolution:
    def __init__(self, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        # Channels last takes two thirds of the time.
        self._weight = torch.from_numpy(weight.copy()).to(memory_format=torch.channels_last)
        self._bias = torch.from_numpy(bias.copy())

    def __call__(self, planes: Tensor, stride: int = 1) -> Tensor:
        padding = self._weight.shape[2] // 2
        groups = planes.shape[1] // self._weight.shape[1]
        return functional.conv2d(planes, self._weight, self._bias, stride, padding, 1, groups)


class RetinaFace:
    """The network, in float32 on the processor."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """weights: the arrays of the ONNX file, by name."""
        numbers = sorted(
            int(name.removeprefix(_NUMBERED))
            for name, array in weights.items()
            if name.startswith(_NUMBERED) and array.ndim == 4
        )
        # In the order in which they are applied. The number of a bias follows that of its weight.
        layers = (
            _Convolution(weights[f"{_NUMBERED}{number}"], weights[f"{_NUMBERED}{number + 1}"])
            for number in numbers
        )
        self._first = next(layers)
        self._stages = [[(next(layers), next(layers), step) for step in s] for s in _STAGES]
        self._sides = _take(layers, 3)
        self._merge2, self._merge1 = _take(layers, 2)
        self._contexts = [_take(layers, 5) for _ in _LEVELS]
        self._heads = {
            name: [
                _Convolution(
                    weights[f"{name}_head.{name}_head.{level}.weight"],
                    weights[f"{name}_head.{name}_head.{level}.bias"],
                )
                for level in range(len(_LEVELS))
            ]
            for name in ("class", "bbox", "landmark")
        }

    @torch.inference_mode()
    def __call__(self, pictures: NDArray[np.uint8], threshold: float) -> list[Candidates]:
        """What looks like a face in each picture (B, h, w, 3), RGB, with that score or more."""
        mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
        planes = torch.from_numpy(np.ascontiguousarray(pictures[..., ::-1])).float()
        planes = planes.permute(0, 3, 1, 2) - mean
        features = self._features(planes.contiguous(memory_format=torch.channels_last))
        scores = functional.softmax(self._head("class", features, 2), 2)[:, :, 1]
        boxes, points = self._head("bbox", features, 4), self._head("landmark", features, 10)
        anchors = np.concatenate(
            [
                _grid(level.shape[2:], *numbers)
                for level, numbers in zip(features, _LEVELS, strict=True)
            ]
        )
        found = []
        for number, row in enumerate(scores):
            kept = torch.nonzero(row >= threshold)[:, 0]
            found.append(
                _decoded(
                    anchors[kept.numpy()],
                    *(values[number, kept].double().numpy() for values in (scores, boxes, points)),
                )
            )
        return found

    def _head(self, name: str, features: Sequence[Tensor], size: int) -> Tensor:
        """(B, anchors, size)."""
        levels = zip(self._heads[name], features, strict=True)
        return torch.cat(
            [
                head(planes).permute(0, 2, 3, 1).reshape(len(planes), -1, size)
                for head, planes in levels
            ],
            1,
        )

    def _features(self, planes: Tensor) -> list[Tensor]:
        planes = _leaky(self._first(planes, 2))
        outputs = []
        for stage in self._stages:
            for depthwise, pointwise, step in stage:
                planes = _leaky(pointwise(_leaky(depthwise(planes, step))))
            outputs.append(planes)
        fine, middle, coarse = (
            _leaky(side(planes)) for side, planes in zip(self._sides, outputs, strict=True)
        )
        middle = _leaky(self._merge2(middle + _enlarged(coarse, middle)))
        fine = _leaky(self._merge1(fine + _enlarged(middle, fine)))
        return [
            _in_context(planes, layers)
            for planes, layers in zip((fine, middle, coarse), self._contexts, strict=True)
        ]


def _in_context(planes: Tensor, layers: Sequence[_Convolution]) -> Tensor:
    near, shared, middle, third, far = layers
    common = _leaky(shared(planes))
    return functional.relu(torch.cat((near(planes), middle(common), far(_leaky(third(common)))), 1))


def _leaky(planes: Tensor) -> Tensor:
    return functional.leaky_relu_(planes, _SLOPE)


def _enlarged(coarse: Tensor, fine: Tensor) -> Tensor:
    return functional.interpolate(coarse, fine.shape[2:], mode="nearest")


def _take(layers: Iterator[_Convolution], count: int) -> list[_Convolution]:
    return [next(layers) for _ in range(count)]


def _grid(cells: Sequence[int], step: int, sides: tuple[int, int]) -> NDArray[np.float64]:
    """The anchors of a level, (N, 3): the centre and the side, in pixels."""
    rows, columns = np.mgrid[: cells[0], : cells[1]]
    centres = (np.stack((columns, rows), axis=-1).reshape(-1, 1, 2) + 0.5) * step
    both = np.broadcast_to(centres, (len(centres), 2, 2))
    side = np.broadcast_to(np.array(sides, float).reshape(1, 2, 1), (len(centres), 2, 1))
    return np.concatenate((both, side), axis=2).reshape(-1, 3)


def _decoded(
    anchors: NDArray[np.float64],
    scores: NDArray[np.float64],
    boxes: NDArray[np.float64],
    points: NDArray[np.float64],
) -> Candidates:
    centres, sides = anchors[:, :2], anchors[:, 2:]
    middles = centres + boxes[:, :2] * _OFFSET * sides
    halves = np.exp(boxes[:, 2:] * _SIZE) * sides / 2
    return Candidates(
        scores,
        np.concatenate((middles - halves, middles + halves), axis=1),
        centres[:, None] + points.reshape(-1, 5, 2) * _OFFSET * sides[:, None],
    )
