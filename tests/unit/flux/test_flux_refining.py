"""Tiles through autoencoder and transformer: steps, batches, and what memory running out does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

pytest.importorskip("diffusers", reason="needs the flux extra")
# isort: split
from upscaled_bench.flux_replicas import Replica
from upscaled_models.flux.autoencoder import Autoencoder, load_autoencoder
from upscaled_models.flux.files import Files
from upscaled_models.flux.refiner import Refiner, Request
from upscaled_models.flux.sampling import denoise_tiles, noise_levels
from upscaled_models.flux.text import Embeddings
from upscaled_models.flux.transformer import Transformer, load_transformer
from upscaled_protocol.errors import ErrorCode, JobError

CPU = torch.device("cpu")
LEVELS = noise_levels(20, 0.2, math.exp(1.15))


def silent(done: int, total: int) -> None: ...


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


EMBEDDINGS = Embeddings(random(1, 16, 32, seed=2), random(1, 32, seed=3))


class Job:
    """The host of a refiner."""

    def __init__(self, cancel_at: int | None = None) -> None:
        self.done: list[tuple[int, int]] = []
        self.made_room = 0
        self._cancel_at = cancel_at

    def check_cancelled(self) -> None: ...

    def band_progress(self, done: int, total: int) -> None:
        self.done.append((done, total))
        if self._cancel_at is not None and done >= self._cancel_at:
            raise JobError(ErrorCode.CANCELLED, "the job was cancelled")

    def make_room(self) -> None:
        self.made_room += 1


class Counting:
    """A transformer that counts its calls, and may run out of memory."""

    def __init__(
        self, transformer: Transformer, fails: Callable[[torch.Tensor], bool] = lambda _: False
    ) -> None:
        self._transformer = transformer
        self._fails = fails
        self.shapes: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transformer, name)

    def predict(self, latents: torch.Tensor, *args: Any) -> torch.Tensor:
        if self._fails(latents):
            raise torch.OutOfMemoryError
        self.shapes.append(tuple(latents.shape))
        return self._transformer.predict(latents, *args)


@pytest.fixture(scope="module")
def models(replica: Replica) -> tuple[Autoencoder, Transformer]:
    from upscaled_bench.flux_replicas import job_files

    files: Files = job_files(replica.folder)
    return (
        load_autoencoder(files, CPU, torch.float32, silent),
        load_transformer(files, CPU, torch.float32, "expanded", silent),
    )


Models = tuple[Autoencoder, Transformer]
PICTURE = random(3, 128, 320, seed=5).sigmoid()


def refiner(models: Models, job: Job, *, steps: int = 2, side: int = 128, seed: int = 1) -> Refiner:
    levels = noise_levels(steps, 0.2, math.exp(1.15))
    return Refiner(
        models[0],
        models[1],
        Request(EMBEDDINGS, levels, 3.5, seed),
        tile_size=side,
        memory_bytes=10**9,
        host=job,
    )


def test_sampling_equals_the_stock_image_to_image_pipeline(
    replica: Replica, models: Models
) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxImg2ImgPipeline

    pipeline = FluxImg2ImgPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=math.exp(1.15)),
        vae=replica.autoencoder,
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=replica.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    latents = random(1, 16, 16, 16, seed=6)
    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(9))
    stock = pipeline(
        image=latents,
        height=128,
        width=128,
        strength=0.2,
        num_inference_steps=100,
        guidance_scale=3.5,
        prompt_embeds=EMBEDDINGS.sequence,
        pooled_prompt_embeds=EMBEDDINGS.pooled,
        generator=torch.Generator().manual_seed(9),
        output_type="latent",
    ).images
    counting = Counting(models[1])
    ours = denoise_tiles(
        counting,  # type: ignore[arg-type]
        latents,
        noise,
        LEVELS,
        guidance=3.5,
        embeddings=EMBEDDINGS,
        each_step=lambda _: None,
    )
    assert len(counting.shapes) == 20
    stock = pipeline._unpack_latents(stock, 128, 128, 8)
    # The scheduler has its levels in float32, and divides and multiplies them by 1000.
    assert torch.allclose(ours, stock, atol=1e-5)


def test_a_batch_equals_one_by_one(models: Models) -> None:
    latents, noise = random(3, 16, 16, 16, seed=6), random(3, 16, 16, 16, seed=7)

    def denoised(part: slice) -> torch.Tensor:
        return denoise_tiles(
            models[1],
            latents[part],
            noise[part],
            LEVELS,
            guidance=3.5,
            embeddings=EMBEDDINGS,
            each_step=lambda _: None,
        )

    single = torch.cat([denoised(slice(index, index + 1)) for index in range(3)])
    assert (denoised(slice(0, 3)) - single).abs().max() < 1e-5


def test_every_tile_takes_as_many_model_calls_as_steps(models: Models) -> None:
    counting = Counting(models[1])
    job = Job()
    one = refiner((models[0], counting), job, steps=20)  # type: ignore[arg-type]
    one.batch = 2
    one.refine(PICTURE, 0)
    # Three tiles: two, then one.
    assert [shape[0] for shape in counting.shapes] == [2] * 20 + [1] * 20
    assert job.done[0] == (0, 60)
    assert job.done[-1] == (60, 60)
    assert job.done == sorted(job.done)


def test_neighbours_get_the_same_noise_where_they_overlap(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []

    def denoise(transformer: Any, latents: Any, noise: torch.Tensor, *_: Any, **__: Any) -> Any:
        given.extend(noise)
        return latents

    monkeypatch.setattr("upscaled_models.flux.refiner.denoise_tiles", denoise)
    band = torch.zeros(3, 128, 240)
    refiner(models, Job()).refine(band, 0)
    first, second = given
    offset = (240 - 128) // 8
    assert torch.equal(first[:, :, offset:], second[:, :, : 16 - offset])
    # And the next band the same as the lower part of this one.
    given.clear()
    refiner(models, Job()).refine(band, 64)
    assert torch.equal(first[:, 8:], given[0][:, :8])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(models: Models) -> None:
    results = [refiner(models, Job()).refine(PICTURE, 0) for _ in range(2)]
    assert torch.equal(*results)
    other = refiner(models, Job(), seed=2).refine(PICTURE, 0)
    assert not torch.equal(other, results[0])


def test_memory_running_out_makes_batches_smaller_and_nothing_else(models: Models) -> None:
    expected = refiner(models, Job()).refine(PICTURE, 0)
    counting = Counting(models[1], fails=lambda latents: len(latents) > 1)
    job = Job()
    one = refiner((models[0], counting), job)  # type: ignore[arg-type]
    assert torch.allclose(one.refine(PICTURE, 0), expected, atol=1e-5)
    assert (job.made_room, one.batch, one.side) == (1, 1, 128)
    one.refine(PICTURE, 0)
    assert job.made_room == 1  # what fits is remembered


def test_memory_running_out_for_one_tile_makes_tiles_smaller(models: Models) -> None:
    counting = Counting(models[1], fails=lambda latents: latents.shape[2] > 16)
    job = Job()
    one = refiner((models[0], counting), job, side=256)  # type: ignore[arg-type]
    picture = random(3, 256, 256, seed=5).sigmoid()
    result = one.refine(picture, 0)
    assert one.side == 128
    assert result.shape == picture.shape
    assert {shape[2:] for shape in counting.shapes} == {(16, 16)}


def test_memory_that_is_never_enough_ends_the_job(models: Models) -> None:
    counting = Counting(models[1], fails=lambda _: True)
    with pytest.raises(JobError, match="even with tiles of 128 pixels") as failed:
        refiner((models[0], counting), Job(), side=256).refine(PICTURE, 0)  # type: ignore[arg-type]
    assert failed.value.code == ErrorCode.OUT_OF_MEMORY


def test_another_error_is_not_taken_for_lack_of_memory(models: Models) -> None:
    def fails(_: torch.Tensor) -> bool:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        refiner((models[0], Counting(models[1], fails)), Job()).refine(PICTURE, 0)  # type: ignore[arg-type]


def test_a_cancel_takes_effect_at_the_next_step_and_leaves_nothing_behind(
    models: Models,
) -> None:
    expected = refiner(models, Job()).refine(PICTURE, 0)
    for step in range(4):
        counting = Counting(models[1])
        one = refiner((models[0], counting), Job(cancel_at=step))  # type: ignore[arg-type]
        one.batch = 1
        with pytest.raises(JobError, match="cancelled"):
            one.refine(PICTURE, 0)
        assert len(counting.shapes) == step
        assert torch.equal(refiner(models, Job()).refine(PICTURE, 0), expected)


def test_the_batch_follows_the_memory(models: Models) -> None:
    def batch(memory_bytes: int) -> int:
        one = Refiner(
            *models,
            Request(EMBEDDINGS, LEVELS, 3.5, seed=1),
            tile_size=128,
            memory_bytes=memory_bytes,
            host=Job(),
        )
        return one.batch

    assert batch(1) == 1
    assert batch(10**12) == 8
    assert 1 < batch(10**6) < 8


class Shuffling:
    """An autoencoder that changes nothing: it only moves pixels into channels, and back."""

    factor, channels = 8, 192

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return functional.pixel_unshuffle(pixels, self.factor)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(latents, self.factor)


@pytest.mark.parametrize(
    "picture",
    [
        torch.full((3, 128, 320), 1 / 3),
        torch.linspace(0, 1, 3 * 128 * 320).view(3, 128, 320),
        PICTURE,
    ],
    ids=["constant", "gradient", "noise"],
)
def test_without_denoise_tiles_join_to_the_very_picture(
    models: Models, picture: torch.Tensor
) -> None:
    one = Refiner(
        Shuffling(),  # type: ignore[arg-type]
        models[1],
        Request(EMBEDDINGS, [0.0], 3.5, seed=1),
        tile_size=128,
        memory_bytes=10**9,
        host=Job(),
    )
    assert torch.equal(one.refine(picture, 0), picture)
