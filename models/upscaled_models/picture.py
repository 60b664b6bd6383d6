"""A picture job from its input to its output, for every engine that enlarges one picture.

An engine says how it enlarges rows (`PictureEngine.prepare`); all else is done here, once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from typing import TYPE_CHECKING, ClassVar, TypeVar

from upscaled_imaging.dimensions import Plan, plan_size
from upscaled_models.engine import Context, Engine, Outcome
from upscaled_protocol.configs import ImageConfig
from upscaled_protocol.faces import Face
from upscaled_protocol.messages import Size

if TYPE_CHECKING:
    import numpy as np

    from upscaled_imaging.read import Source

PictureConfigT = TypeVar("PictureConfigT", bound=ImageConfig)

# Blocks of rows, (h, W, C) of uint8 or uint16, from the top of a picture down.
RowBlocks = Generator["np.ndarray", None, None]


class Enlargement(ABC):
    """One picture inside an engine: its enlarged rows, and what the result says about them."""

    # Of the rows. If the size is neither the plan's `scaled` nor its `output`, they are resampled.
    size: Size
    bits: int
    # Where the rows are computed, as the result names it.
    device: str
    # The model, and why it was chosen, if the engine chose it; None for the config's.
    model: str | None = None
    model_reason: str | None = None
    # Whether `rows` needs the processors that the encoder uses: the two then work in turns.
    in_turns: bool = False
    # Seconds that the encoder needs after the last row. Set before `rows` is called.
    tail_s: float = 0.0

    @property
    def precision(self) -> str | None:
        """What the rows were computed in."""
        return None

    @property
    def upstream_calls(self) -> int | None:
        """Calls of a service so far; None if the engine computes here."""
        return None

    @property
    def faces(self) -> list[Face] | None:
        """The faces that were found; None if none were looked for."""
        return None

    @abstractmethod
    def rows(self) -> RowBlocks:
        """The enlarged rows from the top down: (h, width, the source's bands), uint8 or uint16.

        Called once, when the job has the device. An array is not changed after it was yielded.
        """


# Begins to enlarge an open picture; what it holds is given back when the context is left.
Enlarge = Callable[["Source", Plan], AbstractContextManager[Enlargement]]


class PictureEngine(Engine[PictureConfigT]):
    """An engine whose jobs enlarge one picture."""

    # Whether a job needs the lane's device for itself while its rows are computed.
    takes_turns: ClassVar[bool] = True

    @classmethod
    def preimport(cls) -> None:
        """Import numpy, libvips and everything that reads and writes pictures."""
        import upscaled_imaging.output
        import upscaled_imaging.read
        import upscaled_imaging.write  # noqa: F401 - for `run`

    @abstractmethod
    def prepare(self, config: PictureConfigT, context: Context) -> Enlarge:
        """Check what can be checked before the picture is opened: models, accounts.

        The returned function is called once and loads what the job needs. Both raise `JobError`.
        """

    def default_factor(
        self,
        config: PictureConfigT,  # noqa: ARG002 - for engines that ask their model
        source: Source,  # noqa: ARG002
        context: Context,  # noqa: ARG002
    ) -> float:
        """The factor of a job that states no size. Raises `JobError`."""
        return self.settings.defaults.factor

    def compute(self, task: Callable[[], None]) -> None:
        """Run `task`, which takes all rows of an `Enlargement`, in the thread for that."""
        task()

    def run(self, config: PictureConfigT, context: Context) -> Outcome:
        """Enlarge one picture. Raises `JobError`; leaves no file behind unless it returns."""
        from upscaled_imaging.output import plan_output
        from upscaled_imaging.read import open_source
        from upscaled_imaging.write import open_sink

        settings = self.settings
        enlarge = self.prepare(config, context)
        with ExitStack() as held:
            with context.phase("decode"):
                source = held.enter_context(open_source(config, settings, context))
            size = Size(width=source.width, height=source.height)
            factor = config.factor or settings.defaults.factor
            if config.factor is None and not config.has_target:
                factor = self.default_factor(config, source, context)
            plan = plan_size(config, size, factor=factor, default_dpi=settings.defaults.dpi)
            output = plan_output(
                config, settings, source, plan, method=self.method, context=context
            )
            enlarged = held.enter_context(enlarge(source, plan))
            sink = held.enter_context(
                open_sink(
                    output,
                    enlarged.size,
                    source.bands,
                    enlarged.bits,
                    in_turns=enlarged.in_turns,
                )
            )
            enlarged.tail_s = sink.tail_s

            def compute() -> None:
                with closing(enlarged.rows()) as blocks:
                    for rows in blocks:
                        sink.write(rows)

            with context.device_turn() if self.takes_turns else nullcontext():
                self.compute(compute)
            with context.phase("encode"):
                written = sink.commit()
        return Outcome(
            output_path=written.output_path,
            output_base64=written.output_base64,
            output_url=written.output_url,
            output_bytes=written.output_bytes,
            input_size=size,
            output_size=plan.output,
            scale_factor=plan.scale,
            crop_info=plan.crop_info,
            model=enlarged.model or config.model,
            model_reason=enlarged.model_reason,
            device=enlarged.device,
            precision=enlarged.precision,
            upstream_calls=enlarged.upstream_calls,
            faces=enlarged.faces,
        )
