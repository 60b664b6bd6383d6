"""Pixels to planes and back, and rows that are read ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_networks import CPU
from upscaled_models.esrgan import transfer
from upscaled_models.esrgan.pixels import to_bands, to_picture, to_planes, to_rows
from upscaled_models.esrgan.readahead import read_ahead
from upscaled_protocol.errors import ErrorCode, JobError
from waiting import TIMEOUT_S


@given(
    pixels=st.tuples(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)),
    ).flatmap(lambda kind: arrays.arrays(*kind)),
    channels=st.sampled_from([1, 3]),
)
def test_what_no_network_changes_comes_back_as_it_was(pixels: np.ndarray, channels: int) -> None:
    bits = 8 * pixels.itemsize
    planes = to_planes(to_picture(pixels, CPU), channels)
    assert planes.shape[1:] == (channels, *pixels.shape[:2])
    assert 0 <= planes.min() <= planes.max() <= 1
    rows = to_rows(to_bands(planes, pixels.shape[2]), bits)
    assert rows.dtype == pixels.dtype
    assert np.array_equal(rows, pixels)


@given(
    pixels=st.tuples(
        st.sampled_from([np.uint8, np.uint16]),
        st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(1, 4)),
    ).flatmap(lambda kind: arrays.arrays(*kind)),
)
def test_pixels_travel_to_a_device_and_back_unchanged(pixels: np.ndarray) -> None:
    # As a view, whose pixels do not lie side by side.
    given = pixels[:, ::-1]
    sent = transfer.send(given, CPU)
    assert sent.dtype == torch.float32
    assert np.array_equal(sent.numpy(), given.astype(np.float32))
    fetched = transfer.fetch(sent.permute(1, 0, 2), 8 * pixels.itemsize)
    assert fetched.dtype == pixels.dtype
    assert fetched.flags.c_contiguous
    assert np.array_equal(fetched, given.transpose(1, 0, 2))


class Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which copies are not waited for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unfinished: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        named = dict(zip([one.name for one in func._schema.arguments], args, strict=False))
        if (named | kwargs).get("non_blocking"):
            self.unfinished.append(func)
        return func(*args, **kwargs)


def test_memory_that_is_not_pinned_is_copied_before_it_is_used_again() -> None:
    with Copies() as copies:
        sent = transfer.send(np.zeros((2, 3, 3), np.uint8), torch.device("meta"))
        transfer.fetch(torch.zeros(2, 3, 3), 16)
    assert sent.is_meta
    assert not copies.unfinished


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 255), (16, 1 / 65535)])
def test_values_are_rounded_and_held_within_range(bits: int, step: float) -> None:
    values = torch.tensor([-1.0, -0.4 * step, 0.4 * step, 0.6 * step, 1 - 0.4 * step, 1.0, 7.0])
    rows = to_rows(values.view(1, 1, 1, -1), bits).flatten().tolist()
    top = 2**bits - 1
    assert rows == [0, 0, 0, 1, top, top, top]


def test_gray_is_the_mean_of_what_the_network_made_of_it() -> None:
    planes = torch.tensor([0.2, 0.4, 0.9]).view(1, 3, 1, 1)
    assert to_bands(planes, 1).item() == pytest.approx(0.5)


def never() -> None:
    """The check of a job that is not cancelled."""


def test_items_come_in_order_and_ahead_of_their_reader() -> None:
    made: list[int] = []
    enough = threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 2:
                enough.set()
            yield number

    with read_ahead(items(), never) as ahead:
        # Two are ready, and a third waits to be put there.
        assert enough.wait(TIMEOUT_S)
        assert len(made) == 3
        assert list(ahead) == [0, 1, 2, 3, 4]


def test_a_failure_is_raised_in_place_of_its_item() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    with read_ahead(items(), never) as ahead:
        assert next(ahead) == 1
        with pytest.raises(OSError, match="disk"):
            next(ahead)


def test_the_thread_ends_if_its_items_are_not_read() -> None:
    def items() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    threads = set(threading.enumerate())  # also what other tests' libraries left running
    with read_ahead(items(), never) as ahead:
        assert next(ahead) == 0
    assert set(threading.enumerate()) <= threads


def test_a_reader_that_is_cancelled_does_not_wait_for_an_item_that_takes_long() -> None:
    may_end = threading.Event()

    def cancelled() -> None:
        raise JobError(ErrorCode.CANCELLED, "the job was cancelled")

    def leave_behind() -> None:
        begun = threading.Event()

        def slow() -> Iterator[int]:
            begun.set()
            assert may_end.wait(TIMEOUT_S)
            yield 1

        with read_ahead(slow(), cancelled) as ahead:
            assert begun.wait(TIMEOUT_S)
            with pytest.raises(JobError, match="cancelled"):
                next(ahead)

    leave_behind()
    # Others do not wait for one of them; for a second they do, so that memory does not add up.
    with read_ahead(iter([2]), never) as ahead:
        assert next(ahead) == 2
    leave_behind()
    taken: list[bool] = []

    def following() -> Iterator[int]:
        taken.append(may_end.is_set())
        yield 3

    with read_ahead(following(), may_end.set) as ahead:
        assert next(ahead) == 3
    assert taken == [True]
