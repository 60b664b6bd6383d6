"""The shapes that are known without a call are torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from upscaled_models.esrgan.rows.shapes import clear_result

aten = torch.ops.aten


def floats(*sides: int) -> Tensor:
    return torch.rand(sides)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.add.Tensor, (floats(2, 3, 4), floats(1, 3, 1))),
        (aten.sub.Tensor, (floats(5, 1, 4), floats(5, 3, 1))),
        (aten.mul.Scalar, (floats(2, 3), 2.0)),
        (aten.layer_norm.default, (floats(2, 5, 8), [8], floats(8), floats(8))),
        (aten.softmax.int, (floats(2, 5, 8), -1)),
        (aten.roll.default, (floats(1, 4, 4, 2), [1, 1], [1, 2])),
        (aten.masked_fill.Scalar, (floats(3, 4), floats(3, 4) > 0.5, -100.0)),
        (aten.ne.Scalar, (floats(3, 4), 0)),
        (aten.cat.default, ([floats(1, 2, 3), floats(1, 4, 3)], 1)),
        (aten._prelu_kernel.default, (floats(1, 4, 3, 3), floats(1, 4, 1, 1))),
        (aten.linear.default, (floats(2, 7, 8), floats(5, 8), floats(5))),
        (aten.matmul.default, (floats(2, 3, 4, 5), floats(2, 3, 5, 6))),
        (aten.index.Tensor, (floats(9, 2), [torch.tensor([[0, 8], [4, 4], [1, 2]])])),
        (aten.conv2d.default, (floats(1, 3, 9, 8), floats(4, 3, 3, 3))),
        (aten.conv2d.default, (floats(1, 3, 9, 8), floats(4, 3, 3, 3), floats(4), [2, 1], [1, 0])),
        (
            aten.convolution.default,
            (floats(1, 4, 9, 8), floats(4, 2, 3, 3), None, [2, 2], [2, 2], [2, 2], False, [0], 2),
        ),
        (aten.pixel_shuffle.default, (floats(1, 8, 3, 5), 2)),
        (aten.upsample_nearest2d.default, (floats(1, 2, 3, 5), [6, 15], 2.0, 3.0)),
    ],
)
def test_they_are_torchs(func: Any, args: Any) -> None:
    expected = func(*args)
    result = clear_result(func, tree_map(_on_meta, args))
    assert result is not None
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)


@pytest.mark.parametrize(
    ("func", "args"),
    [
        (aten.div.Tensor, (torch.tensor([1, 2]), torch.tensor([2, 2]))),
        (aten.add.Tensor, (floats(2, 3).half(), floats(2, 3))),
        (aten.matmul.default, (floats(2, 3), floats(3, 4))),
        (aten.sort.default, (floats(4),)),
    ],
)
def test_what_is_not_clear_is_left_to_torch(func: Any, args: Any) -> None:
    assert clear_result(func, tree_map(_on_meta, args)) is None


def _on_meta(item: Any) -> Any:
    return item.to("meta") if isinstance(item, Tensor) else item
