"""A tile that fails is done again: in smaller tiles if memory ran out, in full precision if half
precision fails."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from running_stage import RecordingHost, upscaled
from tiny_networks import (
    compact,
    in_bands,
    network,
    psnr,
    random_picture,
    smooth_picture,
)
from upscaled_models.device.out_of_memory import is_out_of_memory
from upscaled_models.esrgan.network import Network, Stream
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import Tile
from upscaled_protocol.errors import ErrorCode, JobError


class OutOfMemory:
    """Makes streams of a network fail if a band has more pixels than there is memory for."""

    def __init__(self, limit: int, error: Callable[[], Exception], failures: int = 1000) -> None:
        self.limit = limit
        self.error = error
        self.failures = failures
        self.pixels = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        opened = Network.open

        def open_limited(network: Network, *arguments: int, **named: bool) -> Stream:
            stream = opened(network, *arguments, **named)
            feed = stream.feed

            def limited_feed(rows: Tensor) -> Tensor | None:
                if rows.shape[2] * rows.shape[3] > self.limit and self.failures:
                    self.failures -= 1
                    raise self.error()
                self.pixels += rows.shape[2] * rows.shape[3]
                return feed(rows)

            stream.feed = limited_feed  # type: ignore[method-assign]
            return stream

        monkeypatch.setattr(Network, "open", open_limited)


def cpu_allocation_failure() -> Exception:
    """What torch really raises."""
    try:
        torch.empty(2**55, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("there are 32 PB of memory")


OUT_OF_MEMORY: list[Callable[[], Exception]] = [
    MemoryError,
    lambda: torch.OutOfMemoryError("CUDA out of memory."),
    cpu_allocation_failure,
    # Seen of a convolution of oneDNN's, in a process whose address space was full.
    lambda: RuntimeError("could not create a primitive"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "cpu", "onednn"])
@pytest.mark.parametrize("by_rows", [True, False], ids=["by rows", "in tiles"])
def test_a_tile_that_runs_out_of_memory_is_done_again_in_smaller_ones(
    by_rows: bool, error: Callable[[], Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = network(compact())
    picture = random_picture(200, 120)
    expected = upscaled(small, picture)
    host = RecordingHost()
    memory = OutOfMemory(1000, error)
    memory.install(monkeypatch)
    if by_rows:
        result = upscaled(small, picture, Tile(120, 32), host)
    else:
        result = upscaled(small.in_tiles(), picture, Tile(40, 32), host)
    assert torch.equal(result, expected)
    assert host.rooms_made == (2 if by_rows else 1)


def test_what_a_failed_tile_had_computed_is_freed_first(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Tensor]] = []

    def failure() -> Exception:
        computed = torch.zeros(1000)
        held.append(weakref.ref(computed))
        try:
            raise MemoryError
        except MemoryError as error:
            return error

    class Host(RecordingHost):
        def make_room(self) -> None:
            super().make_room()
            assert [one() for one in held] == [None]

    memory = OutOfMemory(1000, failure, failures=1)
    memory.install(monkeypatch)
    host = Host()
    upscaled(network(compact()), random_picture(70, 120), Tile(120, 32), host)
    assert host.rooms_made == 1


def test_it_goes_on_from_the_tile_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = network(compact())
    picture = random_picture(400, 60)
    expected = upscaled(small, picture)
    host = RecordingHost()
    # Memory gets short when half of the picture is done.
    memory = OutOfMemory(10**9, MemoryError)
    memory.install(monkeypatch)
    stage = Stage(small, 60, 400, Tile(60, 32), host)
    results = []
    for result in stage.run(in_bands(picture, 32)):
        results.append(result)
        if sum(part.shape[2] for part in results) >= 800:
            memory.limit = 60 * 10
    assert torch.equal(torch.cat(results, 2), expected)
    assert memory.pixels < 1.2 * 400 * 60


class HeldRows:
    """Makes streams fail that hold rows between bands, once there are some."""

    def install(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        opened = Network.open

        def open_failing(network: Network, *arguments: int, **named: bool) -> Stream:
            stream = opened(network, *arguments, **named)
            feed, fed = stream.feed, 0

            def failing_feed(rows: Tensor) -> Tensor | None:
                nonlocal fed
                fed += rows.shape[2]
                if network.by_rows and fed > after:
                    raise MemoryError
                return feed(rows)

            stream.feed = failing_feed  # type: ignore[method-assign]
            return stream

        monkeypatch.setattr(Network, "open", open_failing)


def test_a_picture_continues_in_tiles_if_its_rows_do_not_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = network(compact())
    picture = random_picture(300, 250)
    expected = upscaled(small, picture)
    HeldRows().install(monkeypatch, after=100)
    assert torch.equal(upscaled(small, picture, Tile(250, 16)), expected)


def test_below_the_least_tile_it_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    small = network(compact())
    memory = OutOfMemory(0, MemoryError)
    memory.install(monkeypatch)
    with pytest.raises(JobError, match="32 x 8") as caught:
        upscaled(small, random_picture(128, 128), Tile(128, 64))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert caught.value.retryable


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_memory_that_a_library_of_cuda_lacks_is_a_lack_of_memory(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied; is there memory left?"),
        RuntimeError("could not create a primitive descriptor for a convolution"),
        ValueError("out of memory"),
        JobError(ErrorCode.CANCELLED, "out of memory"),
    ],
    ids=["runtime", "onednn", "value", "cancelled"],
)
def test_other_errors_are_never_taken_for_a_lack_of_memory(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = network(compact())
    host = RecordingHost()
    memory = OutOfMemory(10, lambda: error)
    memory.install(monkeypatch)
    with pytest.raises(type(error)) as caught:
        upscaled(small, random_picture(90, 100), Tile(64, 16), host)
    assert caught.value is error
    assert host.rooms_made == 0
    assert memory.failures == 999


def spoiled(small: Network, spoil: Callable[[Tensor], Tensor], after: int) -> Network:
    """The network with results that are wrong after some bands."""
    opened = small.open
    bands = 0

    def open_spoiled(*arguments: int, **named: bool) -> Stream:
        stream = opened(*arguments, **named)
        feed, drain = stream.feed, stream.drain

        def spoiled_feed(rows: Tensor) -> Tensor | None:
            nonlocal bands
            bands += 1
            result = feed(rows)
            return result if bands <= after or result is None else spoil(result)

        def spoiled_drain() -> Tensor | None:
            result = drain()
            return result if result is None else spoil(result)

        stream.feed, stream.drain = spoiled_feed, spoiled_drain  # type: ignore[method-assign]
        return stream

    small.open = open_spoiled  # type: ignore[assignment,method-assign]
    return small


def one_nan(result: Tensor) -> Tensor:
    result = result.clone()
    result[0, 1, -1, -1] = torch.nan
    return result


FAILURES = [one_nan, torch.zeros_like, lambda result: result * torch.inf]


@pytest.mark.parametrize("spoil", FAILURES, ids=["one nan", "black", "infinite"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_failure_of_half_precision_is_done_again_in_full(
    spoil: Callable[[Tensor], Tensor], after: int
) -> None:
    model = compact()
    half = spoiled(network(model, torch.bfloat16), spoil, after)
    full = network(model)
    picture = smooth_picture(100, 60)
    result = upscaled(half, picture, Tile(60, 16), RecordingHost(full))
    expected = upscaled(full, picture)
    # What was given before the failure stays.
    kept = 4 * after * 16
    assert torch.equal(result[:, :, kept:], expected[:, :, kept:])
    assert psnr(result, expected) > 40


def test_a_flat_picture_is_no_failure_of_half_precision() -> None:
    half = network(compact(), torch.bfloat16)
    flat = spoiled(half, torch.zeros_like, 0)
    assert not upscaled(flat, torch.zeros(1, 3, 50, 40), Tile(40, 16)).any()


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("by_rows", [True, False], ids=["by rows", "in tiles"])
def test_a_failure_of_full_precision_ends_the_job(by_rows: bool, as_bytes: bool) -> None:
    model = compact()
    with torch.no_grad():
        model.body[0].bias[0] = torch.nan  # type: ignore[index,union-attr]
    small = network(model) if by_rows else network(model).in_tiles()
    stage = Stage(small, 20, 20, Tile(20, 8), RecordingHost(), as_bytes=as_bytes)
    with pytest.raises(JobError) as failed:
        list(stage.run(in_bands(random_picture(20, 20), 13)))
    assert failed.value.code == ErrorCode.MODEL_CORRUPT
