"""Compiled attention gives torch's numbers, with vectors of each width that this processor has."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from upscaled_models.esrgan.compiled import library
from upscaled_models.esrgan.compiled.attention import Heads, attend

WIDTHS = [lanes for lanes in (8, 16) if lanes <= library.lanes()]

# As NVIDIA's cards write it: all bits behind the sign.
CARDS_NAN = torch.tensor(0x7FFFFFFF, dtype=torch.int32).view(torch.float32)

pytestmark = pytest.mark.skipif(not WIDTHS, reason="nothing is compiled for this processor")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def exact(given: Heads, fixed: Tensor | None, varied: Tensor | None, factor: float) -> Tensor:
    """In float64, in the steps that networks write."""
    queries, keys, values = given
    scores = factor * queries.double() @ keys.double().mT
    for bias in (fixed, varied):
        if bias is not None:
            scores = scores + bias.double()
    result: Tensor = scores.softmax(-1) @ values.double()
    return result


@pytest.mark.parametrize("lanes", WIDTHS)
@given(
    windows=st.integers(1, 3),
    heads=st.integers(1, 3),
    places=st.integers(1, 70),
    others=st.integers(1, 70),
    width=st.integers(1, 40),
    fixed=st.sampled_from([None, "all heads", "each head"]),
    varied=st.sampled_from([None, "all heads", "each head", "each key"]),
)
@settings(max_examples=150)
def test_attention_is_that_of_the_steps(
    lanes: int,
    windows: int,
    heads: int,
    places: int,
    others: int,
    width: int,
    fixed: str | None,
    varied: str | None,
) -> None:
    queries = random(windows, heads, places, width)
    keys, values = (random(windows, heads, others, width, seed=seed) for seed in (1, 2))
    biases = (
        None if fixed is None else random(1, heads if fixed == "each head" else 1, places, others),
        None
        if varied is None
        else random(windows, heads if varied == "each head" else 1, places, others)[
            :, :, : 1 if varied == "each key" else None
        ],
    )
    result = attend(Heads(queries, keys, values), *biases, 0.3, lanes=lanes)
    expected = exact(Heads(queries, keys, values), *biases, 0.3)
    assert result.shape == expected.shape
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_heads_are_read_and_written_where_networks_have_them(lanes: int) -> None:
    """As one linear layer gives queries, keys and values, and the next one takes the result."""
    queries, keys, values = random(5, 64, 3, 6, 10).permute(2, 0, 3, 1, 4)
    bias = random(6, 64, 64).permute(0, 2, 1)[None]
    result = attend(Heads(queries, keys, values), bias, None, 0.3, lanes=lanes)
    assert result.transpose(1, 2).is_contiguous()
    expected = exact(Heads(queries, keys, values), bias, None, 0.3)
    torch.testing.assert_close(result.double(), expected, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("mask", [-100.0, float("-inf")])
def test_masked_places_have_no_weight(lanes: int, mask: float) -> None:
    queries, keys, values = random(3, 2, 1, 64, 10)
    hidden = torch.zeros(2, 1, 64, 64)
    hidden[1, :, :, 20:] = mask
    result = attend(Heads(queries, keys, values), None, hidden, 1.0, lanes=lanes)
    alone = exact(Heads(queries[1:], keys[1:, :, :20], values[1:, :, :20]), None, None, 1.0)
    torch.testing.assert_close(result[1:].double(), alone, rtol=2e-6, atol=4e-6)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_a_row_in_which_all_is_masked_is_torchs(lanes: int) -> None:
    heads = Heads(*random(3, 1, 1, 40, 9))
    hidden = torch.full((1, 1, 40, 40), torch.finfo(torch.float32).min)
    result = attend(heads, None, hidden, 1.0, lanes=lanes)
    expected = torch.softmax(heads.queries @ heads.keys.mT + hidden, -1) @ heads.values
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("lanes", WIDTHS)
def test_scores_that_are_far_apart_give_the_values_of_the_greatest(lanes: int) -> None:
    queries, keys, values = torch.full((1, 1, 1, 1), 3e4), random(1, 1, 50, 1), random(1, 1, 50, 1)
    result = attend(Heads(queries, keys, values), None, None, 1e3, lanes=lanes)
    assert result.item() == values.flatten()[keys.flatten().argmax()].item()


@pytest.mark.parametrize("lanes", WIDTHS)
@pytest.mark.parametrize("place", ["queries", "keys", "values", "bias"])
@pytest.mark.parametrize("strange", [float("nan"), float("inf"), CARDS_NAN])
def test_what_is_not_a_number_is_not_hidden(
    lanes: int, place: str, strange: float | Tensor
) -> None:
    given = {
        "queries": random(1, 1, 40, 9).abs(),
        "keys": random(1, 1, 40, 9).abs(),
        "values": random(1, 1, 40, 9),
        "bias": random(1, 1, 40, 40),
    }
    given[place][0, 0, 33, 5] = strange
    heads = Heads(given["queries"], given["keys"], given["values"])
    result = attend(heads, given["bias"], None, 1.0, lanes=lanes)
    expected = torch.softmax(given["queries"] @ given["keys"].mT + given["bias"], -1)
    expected = expected @ given["values"]
    assert torch.equal(result.isfinite(), expected.isfinite())
    assert not result.isfinite().all()


@pytest.mark.parametrize("lanes", WIDTHS)
def test_a_result_does_not_depend_on_the_other_windows(lanes: int) -> None:
    queries, keys, values = random(3, 7, 2, 49, 12)
    together = attend(Heads(queries, keys, values), None, None, 1.0, lanes=lanes)
    alone = attend(Heads(queries[6:], keys[6:], values[6:]), None, None, 1.0, lanes=lanes)
    assert torch.equal(together[6:], alone)
