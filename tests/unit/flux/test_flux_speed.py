"""What makes model calls faster, and what stays the same with it."""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
from upscaled_models.flux.autoencoder import Autoencoder, load_autoencoder
from upscaled_models.flux.files import Files
from upscaled_models.flux.refiner import Refiner, Request
from upscaled_models.flux.sampling import noise_levels
from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.transformer import Placement, Transformer, load_transformer
from upscaled_protocol.errors import ErrorCode, JobError

CPU = torch.device("cpu")
STEPS = 6
# Between the changes of the first block in the replica's steps: some calls are cut short.
SOME = 0.35


def silent(done: int, total: int) -> None: ...


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EMBEDDINGS = Embeddings(random(1, 16, 32, seed=2), random(1, 32, seed=3))
PICTURE = random(3, 128, 320, seed=5).sigmoid()


class Job:
    """The host of a refiner; interrupts it before a model call."""

    def __init__(self, interrupt_at: int | None = None, error: Exception | None = None) -> None:
        self._interrupt_at = interrupt_at
        self._error = error

    def check_cancelled(self) -> None: ...

    def band_progress(self, done: int, total: int) -> None:
        if done == self._interrupt_at and self._error is not None:
            error, self._error = self._error, None
            raise error

    def make_room(self) -> None: ...


@pytest.fixture(scope="module")
def autoencoder(replica: Any) -> Autoencoder:
    from upscaled_bench.flux_replicas import job_files

    return load_autoencoder(job_files(replica.folder), CPU, torch.float32, silent)


@pytest.fixture
def transformer(files: Files) -> Transformer:
    return load_transformer(files, CPU, torch.float32, "expanded", silent)


def refiner(
    autoencoder: Autoencoder, transformer: Transformer, block_cache: float, job: Job | None = None
) -> Refiner:
    levels = noise_levels(STEPS, 0.8, math.exp(1.15))
    return Refiner(
        autoencoder,
        transformer,
        Request(EMBEDDINGS, levels, 3.5, 1, block_cache),
        tile_size=128,
        memory_bytes=10**9,
        host=job or Job(),
    )


@contextmanager
def counted_blocks(transformer: Transformer) -> Iterator[Counter[str]]:
    """How often which block is computed meanwhile."""
    counts: Counter[str] = Counter()
    module = transformer._module
    held = []
    for name, inner in {
        "first": module.transformer_blocks[0].norm1,
        "second": module.transformer_blocks[1].norm1,
        "last": module.single_transformer_blocks[-1].norm,
    }.items():
        held.append(inner.register_forward_pre_hook(lambda *_, name=name: counts.update([name])))
    yield counts
    for handle in held:
        handle.remove()


def test_calls_that_change_little_are_cut_short(
    autoencoder: Autoencoder, transformer: Transformer
) -> None:
    one = refiner(autoencoder, transformer, SOME)
    with counted_blocks(transformer) as counts:
        one.refine(PICTURE, 0)
    tiles = 3
    assert one.calls == counts["first"] == tiles * STEPS
    assert tiles < one.full_calls < tiles * STEPS
    assert counts["second"] == counts["last"] == one.full_calls


def test_every_tile_begins_with_a_full_call(
    autoencoder: Autoencoder, transformer: Transformer
) -> None:
    one = refiner(autoencoder, transformer, 1.0)
    # Even the same tile again: nothing of the one before is left.
    same = PICTURE[:, :, :128]
    results = [one.refine(same, 0) for _ in range(2)]
    assert torch.equal(*results)
    assert one.full_calls == 2


def test_a_threshold_that_nothing_stays_below_changes_nothing(
    autoencoder: Autoencoder, transformer: Transformer
) -> None:
    plain = refiner(autoencoder, transformer, 0.0)
    plain.batch = 1
    one = refiner(autoencoder, transformer, 1e-9)
    assert torch.equal(one.refine(PICTURE, 0), plain.refine(PICTURE, 0))
    assert one.full_calls == one.calls


def test_tiles_are_cut_short_one_by_one_whatever_memory_is_free(
    autoencoder: Autoencoder, transformer: Transformer
) -> None:
    assert refiner(autoencoder, transformer, 0.0).batch == 8
    assert refiner(autoencoder, transformer, SOME).batch == 1


@pytest.mark.parametrize(
    "error",
    [JobError(ErrorCode.CANCELLED, "the job was cancelled"), torch.OutOfMemoryError("none left")],
    ids=["cancel", "memory"],
)
def test_a_tile_that_was_interrupted_leaves_no_cache_behind(
    autoencoder: Autoencoder, transformer: Transformer, error: Exception
) -> None:
    plain, cut_short = (
        refiner(autoencoder, transformer, threshold).refine(PICTURE, 0) for threshold in (0.0, SOME)
    )
    for step in range(1, STEPS):
        one = refiner(autoencoder, transformer, SOME, Job(step, error))
        one._take_smaller_tiles = lambda: None  # type: ignore[method-assign]
        if isinstance(error, JobError):
            with pytest.raises(JobError, match="cancelled"):
                one.refine(PICTURE, 0)
        else:  # the tile is computed again
            assert torch.equal(one.refine(PICTURE, 0), cut_short)
        assert torch.equal(refiner(autoencoder, transformer, 0.0).refine(PICTURE, 0), plain)
        assert torch.equal(refiner(autoencoder, transformer, SOME).refine(PICTURE, 0), cut_short)


def predictions(transformer: Transformer) -> list[torch.Tensor]:
    """For tiles and batches of several sizes."""
    return [
        transformer.predict(random(tiles, 16, 16, width, seed=width), 0.4, 3.5, EMBEDDINGS)
        for tiles in (1, 2, 3, 8)
        for width in (16, 20)
    ]


def check_compiled(files: Files, placement: Placement) -> None:
    """The same predictions, nothing compiled after loading, and the block cache as without."""
    from torch._dynamo.utils import counters

    plain = load_transformer(files, CPU, torch.float32, placement, silent)
    compiled = load_transformer(files, CPU, torch.float32, placement, silent, compiled=True)
    assert compiled.not_compiled is None
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    for expected, given in zip(predictions(plain), predictions(compiled), strict=True):
        assert torch.allclose(given, expected, atol=1e-5)
    counts, latents = [], random(1, 16, 16, 16, seed=1)
    for one in (plain, compiled):
        with one.caching_blocks(SOME) as full_calls:
            for level in (0.9, 0.89, 0.88, 0.3, 0.29):
                one.predict(latents * level, level, 3.5, EMBEDDINGS)
        counts.append(full_calls.count)
    assert counts[0] == counts[1]
    assert 1 < counts[0] < 5
    assert counters["stats"]["unique_graphs"] == before


@pytest.mark.parametrize("placement", ["expanded", "stored"])
def test_no_job_waits_for_a_compiler(
    files: Files, placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Traced and guarded as for the real one, and run as it is: in a second instead of a minute.
    monkeypatch.setattr("torch.compile", functools.partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    check_compiled(files, placement)
    torch.compiler.reset()


@pytest.mark.long
# torch's own, where its compiler is imported.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("placement", ["expanded", "stored"])
def test_compiled_blocks_predict_the_same(files: Files, placement: Placement) -> None:
    torch.compiler.reset()
    check_compiled(files, placement)
    torch.compiler.reset()
