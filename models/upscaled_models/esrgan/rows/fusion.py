"""Calls that are computed together with the steps before them, in one pass over memory.

Each function changes the last steps and returns True, or returns False and changes nothing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor

from upscaled_models.esrgan.compiled import passes
from upscaled_models.esrgan.rows.calls import arguments, negative_slope, packet
from upscaled_models.esrgan.rows.denseblock import DenseBlock
from upscaled_models.esrgan.rows.kernels import (
    Convolution,
    Enlargement,
    Shuffle,
    enlarged_sum,
    shuffle_order,
)
from upscaled_models.esrgan.rows.recording import Node
from upscaled_models.esrgan.rows.steps import Step, Steps, latest

aten = torch.ops.aten


def fuse_activation(steps: Steps, node: Node) -> bool:
    """Apply a leaky ReLU inside the convolution before it."""
    convolution = steps.convolution_before(node)
    slope = negative_slope(node) if isinstance(convolution, Convolution) else None
    if not isinstance(convolution, Convolution) or slope is None:
        return False
    steps.replace_last_work(replace(convolution, slope=slope))
    return True


def fuse_order(steps: Steps, node: Node) -> bool:
    """Give the channels of the convolution before a shuffle the order of `shuffle_order`."""
    convolution = steps.convolution_before(node)
    if convolution is None or (isinstance(convolution, DenseBlock) and convolution.addends):
        return False
    source, factor = node.args
    order = shuffle_order(source.value.shape[1], factor)
    steps.replace_last_work(convolution.with_outputs(order))
    return True


def fuse_enlarged_sum(steps: Steps, node: Node, value: Tensor) -> bool:
    """Shuffle, enlarge and add in one compiled step, which can also give bytes: for a call that
    adds a shuffled answer to the enlarged picture."""
    if not steps.has_native_steps or packet(node) is not aten.add:
        return False
    pair = _shuffle_and_enlargement(steps, node)
    if pair is None or arguments(node).get("alpha", 1) != 1:
        return False
    sources = [step.position.inputs[0] for step in pair]
    shuffle, enlargement = (step.work for step in pair)
    assert isinstance(shuffle, Shuffle)
    assert isinstance(enlargement, Enlargement)
    if (
        not shuffle.is_ordered
        or shuffle.factor != enlargement.factor
        or not passes.can_enlarge(shuffle.factor, value.shape[1])
        or not steps[sources[1]].is_float32
    ):
        return False
    steps.remove_last(2)
    lag, radius = latest([steps[number].position for number in sources])
    steps.append(
        value,
        enlarged_sum(torch.float32),
        sources,
        gain=Fraction(shuffle.factor),
        lag=math.ceil(lag * shuffle.factor),
        radius=radius,
        is_float32=True,
        compute_bytes=enlarged_sum(torch.uint8),
    )
    return True


def _shuffle_and_enlargement(steps: Steps, node: Node) -> tuple[Step, Step] | None:
    """What a call adds, if these are the last two steps and no other call reads them."""
    if not steps.are_last_two(node.inputs) or any(len(one.users) > 1 for one in node.inputs):
        return None
    match [steps[steps.last - 1], steps[steps.last]]:
        case [Step(work=Shuffle()) as shuffle, Step(work=Enlargement()) as enlargement]:
            return shuffle, enlargement
        case [Step(work=Enlargement()) as enlargement, Step(work=Shuffle()) as shuffle]:
            return shuffle, enlargement
    return None
