"""Restores the faces of a picture, as a step after any enlargement."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from upscaled_imaging.dimensions import Plan
from upscaled_imaging.fit import fitted
from upscaled_imaging.read import Source
from upscaled_imaging.rows import Picture
from upscaled_models.device.precision import NAMES, choose_dtype
from upscaled_models.engine import Context
from upscaled_models.esrgan.networks import Networks
from upscaled_models.face.detector import find_faces
from upscaled_models.face.faces import Face, FaceOptions, Floats
from upscaled_models.face.models import Restorer
from upscaled_models.face.paste import FacePaste
from upscaled_models.face.reducedcopy import reduced_copy
from upscaled_models.picture import Enlarge, Enlargement, RowBlocks
from upscaled_protocol.configs import Precision
from upscaled_protocol.faces import Box, Point
from upscaled_protocol.faces import Face as FaceMessage

# The detector in a large picture, and one face in the largest network on a slow processor.
_FIND_BUDGET_S = 300.0
_FACE_BUDGET_S = 600.0


@dataclass(frozen=True)
class Request:
    """What a job wants with its faces. strength: 0 changes no pixel, 1 is the network's face.
    is_step: the job is of another method, and its result names the model of that.
    """

    model: str
    strength: float
    precision: Precision
    options: FaceOptions = field(default_factory=FaceOptions)
    is_step: bool = False


def with_faces(enlarge: Enlarge, request: Request, models: Networks, context: Context) -> Enlarge:
    """`enlarge`, and then the faces of the picture that it gives are restored.

    Raises `JobError` if the model is not there. The returned function raises what `enlarge` and the
    face network raise.
    """
    settings = models.settings
    path = models.catalog.locate(request.model, settings.model_dir, settings.access.roots)

    @contextmanager
    def enlarge_and_restore(source: Source, plan: Plan) -> Iterator[Enlargement]:
        faces = _found(source, request, models, context)
        dtype, _ = choose_dtype(request.precision, models.device, source.bits)
        with ExitStack() as held:
            restorer = Restorer(models, path, dtype, context)
            if request.strength and any(face.why is None for face in faces):
                context.progress(0, "load", budget_s=_FACE_BUDGET_S)
                held.enter_context(restorer.loaded())
            enlarged = held.enter_context(enlarge(source.again(), plan))
            yield RestoredFaces(
                enlarged,
                source=source,
                plan=plan,
                faces=faces,
                restorer=restorer,
                request=request,
                context=context,
            )

    return enlarge_and_restore


def _found(source: Source, request: Request, models: Networks, context: Context) -> list[Face]:
    """The faces of the picture, which is read to its end."""
    context.progress(0, "find faces", budget_s=_FIND_BUDGET_S)
    with context.phase("decode"):
        copy = reduced_copy(source)
    with context.phase("inference"):
        return models.compute(lambda: find_faces(copy, request.options))


class RestoredFaces(Enlargement):
    """An enlargement with its faces restored, in the size of the plan's output."""

    def __init__(
        self,
        enlarged: Enlargement,
        *,
        source: Source,
        plan: Plan,
        faces: list[Face],
        restorer: Restorer,
        request: Request,
        context: Context,
    ) -> None:
        self.size = plan.output
        self.bits = enlarged.bits
        self.device = enlarged.device
        self.in_turns = enlarged.in_turns
        if request.is_step:
            self.model, self.model_reason = enlarged.model, enlarged.model_reason
        self._enlarged = enlarged
        self._plan = plan
        self._restorer = restorer
        self._strength = request.strength
        self._context = context
        self._done = 0
        # Without a circle of references, what the job held is freed at its end.
        me = weakref.proxy(self)
        self._paste = FacePaste(
            faces,
            Picture(self.size.width, self.size.height, source.bands, self.bits),
            lambda crop: me._restore(crop),  # noqa: PLW0108 - a bound method would hold `self`
            scale=(plan.scaled.width / source.width, plan.scaled.height / source.height),
            offset=(plan.crop_x, plan.crop_y),
            strength=request.strength,
        )
        self._due = sum(face.why is None for face in self._paste.faces)

    @property
    def precision(self) -> str | None:
        """What the enlargement was computed in; of a picture that keeps its size, the faces."""
        return self._enlarged.precision or NAMES[self._restorer.dtype]

    @property
    def upstream_calls(self) -> int | None:
        """Those of the enlargement."""
        return self._enlarged.upstream_calls

    @property
    def faces(self) -> list[FaceMessage]:
        """All faces that were found."""
        return [_message(face, self._strength) for face in self._paste.faces]

    def rows(self) -> RowBlocks:
        """Rows of the plan's output. Raises `JobError`."""
        enlarged = self._enlarged
        enlarged.tail_s = self.tail_s
        rows = fitted(
            enlarged.rows(),
            self._plan,
            native=enlarged.size,
            native_bits=self.bits,
            bits=self.bits,
        )
        yield from self._paste.rows(rows)

    def _restore(self, crop: Floats) -> Floats:
        # If a network enlarges the picture, its percentages are the job's: a lower value is raised
        # to the last one.
        percent = 0.0 if self._enlarged.precision else 100 * self._done / self._due
        self._context.progress(
            percent, "faces", done=self._done, total=self._due, budget_s=_FACE_BUDGET_S
        )
        face = self._restorer.restore(crop)
        self._done += 1
        return face


def _message(face: Face, strength: float) -> FaceMessage:
    x, y, width, height = (round(float(value), 2) for value in face.box)
    why = face.why if face.why or strength else "strength is 0"
    return FaceMessage(
        box=Box(x=x, y=y, width=width, height=height),
        score=round(float(face.score), 4),
        points=[Point(x=round(float(a), 2), y=round(float(b), 2)) for a, b in face.points],
        restored=why is None,
        why=why,
    )
