"""Attention as networks write it out, and in one step."""

# torch gives the type of products as Any.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tiny_networks import without_compiled_steps
from torchcalls import TorchCalls
from upscaled_models.esrgan.attention import FusedAttention
from upscaled_models.esrgan.compiled import library

FUSED = "scaled_dot_product_attention"
WINDOWS, HEADS, PLACES, CHANNELS = 70, 3, 64, 10


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


QUERIES, KEYS, VALUES = random(3, WINDOWS, HEADS, PLACES, CHANNELS) * torch.tensor(
    [0.5, 1.0, 1.0]
).view(3, 1, 1, 1, 1)
BIAS = random(HEADS, PLACES, PLACES)
MASK = random(WINDOWS, PLACES, PLACES)


def scores_of(queries: Tensor = QUERIES, keys: Tensor = KEYS) -> Tensor:
    return queries @ keys.transpose(-2, -1)


def plain() -> Tensor:
    return scores_of().softmax(-1) @ VALUES


def with_bias() -> Tensor:
    scores = scores_of() + BIAS.unsqueeze(0)
    return nn.Dropout(0.1).eval()(nn.Softmax(dim=-1)(scores)) @ VALUES


def with_mask_of_each_window() -> Tensor:
    scores = torch.matmul(QUERIES, KEYS.transpose(-2, -1)) + BIAS
    scores = scores.view(1, WINDOWS, HEADS, PLACES, PLACES) + MASK.unsqueeze(1).unsqueeze(0)
    scores = scores.view(-1, HEADS, PLACES, PLACES)
    return functional.softmax(scores, dim=-1, dtype=scores.dtype) @ VALUES


def scaled_by_head() -> Tensor:
    scores = scores_of(functional.normalize(QUERIES, dim=-1), functional.normalize(KEYS, dim=-1))
    return (scores * torch.tensor([3.0, 9.0, 27.0]).view(HEADS, 1, 1) + BIAS).softmax(3) @ VALUES


def in_three_dimensions() -> Tensor:
    queries, keys, values = (one.flatten(0, 1) for one in (QUERIES, KEYS, VALUES))
    scores = 0.5 * torch.bmm(queries, keys.transpose(1, 2)) + BIAS.repeat(WINDOWS, 1, 1)
    return torch.bmm(torch.softmax(scores, -1), values)


def in_five_dimensions() -> Tensor:
    queries, keys, values = (one.unflatten(0, (10, 7)) for one in (QUERIES, KEYS, VALUES))
    scores = scores_of(queries, keys) + MASK.view(10, 7, 1, PLACES, PLACES) + BIAS[:, :1]
    return scores.softmax(-1) @ values


@pytest.mark.parametrize(
    "attention",
    [
        plain,
        with_bias,
        with_mask_of_each_window,
        scaled_by_head,
        in_three_dimensions,
        in_five_dimensions,
    ],
)
@pytest.mark.parametrize("compiled", [True, False])
def test_attention_that_is_written_out_is_computed_in_one_step(
    attention: Callable[[], Tensor], compiled: bool
) -> None:
    if compiled and not library.lanes():
        pytest.skip("nothing is compiled for this processor")
    with torch.inference_mode():
        expected = attention()
        with (
            nullcontext() if compiled else without_compiled_steps(),
            FusedAttention(),
            TorchCalls() as calls,
        ):
            result = attention()
    assert type(result) is Tensor
    assert result.shape == expected.shape
    torch.testing.assert_close(result, expected)
    assert (FUSED in calls.names) == (not compiled)
    assert not calls.names.keys() & {"matmul", "bmm", "softmax", "_softmax"}


def linear() -> Tensor:
    return scores_of() @ VALUES


def weights_alone() -> Tensor:
    return (scores_of() * 0.25 + BIAS).softmax(-1)


def over_queries() -> Tensor:
    return scores_of().softmax(-2) @ VALUES


def of_few_weights() -> Tensor:
    weights = scores_of().softmax(-1)
    return (weights * (weights > 0.1)) @ VALUES


def written_to() -> Tensor:
    scores = scores_of()
    seen = scores.view(1, WINDOWS, HEADS, PLACES, PLACES)
    seen += MASK[None, :, None]
    scores.clamp_(max=2.0)
    return torch.cat([seen[0].softmax(-1) @ VALUES, scores.softmax(-1) @ VALUES])


def by_picture_and_then_clamped() -> Tensor:
    scores = scores_of().view(1, WINDOWS, HEADS, PLACES, PLACES) + MASK[None, :, None]
    return scores.clamp(max=5.0).mean(1)


def other_values() -> Tensor:
    return scores_of().softmax(-1) @ VALUES.repeat(1, 1, 1, 2)


def scaled_after_the_bias() -> Tensor:
    return ((scores_of() + BIAS) * 0.25).softmax(-1) @ VALUES


def biased_in_float64() -> Tensor:
    return (scores_of() + BIAS.double()).softmax(-1) @ VALUES.double()


def wider() -> Tensor:
    return (scores_of(QUERIES[:1], KEYS[:1]) + MASK[:, None]).softmax(-1) @ VALUES


def of_channels() -> Tensor:
    queries, keys, values = (one.transpose(-2, -1) for one in (QUERIES, KEYS, VALUES))
    return scores_of(queries, keys).softmax(-1) @ values


@pytest.mark.parametrize(
    "use",
    [
        linear,
        weights_alone,
        over_queries,
        of_few_weights,
        written_to,
        by_picture_and_then_clamped,
        other_values,
        scaled_after_the_bias,
        biased_in_float64,
        wider,
        of_channels,
    ],
)
def test_what_is_not_attention_gives_the_same_bits(use: Callable[[], Tensor]) -> None:
    with torch.inference_mode():
        expected = use()
        with FusedAttention(), TorchCalls() as calls:
            result = use()
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    assert FUSED not in calls.names


def test_scores_are_computed_once_and_look_like_a_tensor() -> None:
    with torch.inference_mode(), FusedAttention(), TorchCalls() as calls:
        scores = scores_of()
        assert (scores.shape, scores.size(-1), scores.dim()) == (
            (WINDOWS, HEADS, PLACES, PLACES),
            PLACES,
            4,
        )
        assert (scores.dtype, scores.device.type) == (torch.float32, "cpu")
        assert "matmul" not in calls.names
        assert float(scores.sum()) == float(scores.sum())
        assert repr(scores).startswith("tensor(")


def test_biases_are_not_rounded_to_half_precision() -> None:
    with torch.inference_mode():
        exact = with_mask_of_each_window()
        with torch.autocast("cpu", torch.bfloat16):
            expected = with_mask_of_each_window()
            with FusedAttention(), TorchCalls() as calls:
                result = with_mask_of_each_window()
    assert result.dtype == expected.dtype == torch.bfloat16
    assert FUSED in calls.names

    def error(one: Tensor) -> float:
        return float((one.float() - exact).square().mean())

    assert error(result) < error(expected)


def test_a_wrong_product_fails_as_without() -> None:
    with torch.inference_mode(), FusedAttention(), pytest.raises(RuntimeError, match="size"):
        scores_of().softmax(-1) @ VALUES[:, :, 1:]
