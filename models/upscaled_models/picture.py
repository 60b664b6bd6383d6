"""What the engines that enlarge one picture have in common."""

from __future__ import annotations

from upscaled_imaging.destinations import Written
from upscaled_imaging.output import Output
from upscaled_models.engine import Outcome
from upscaled_protocol.messages import Size


def picture_outcome(
    output: Output,
    written: Written,
    input_size: Size,
    *,
    model: str,
    device: str,
    precision: str | None = None,
    upstream_calls: int | None = None,
) -> Outcome:
    """The result of a finished picture. ``written`` is what its sink's `commit` returned."""
    return Outcome(
        output_path=written.output_path,
        output_base64=written.output_base64,
        input_size=input_size,
        output_size=output.plan.output,
        scale_factor=output.plan.scale,
        crop_info=output.plan.crop_info,
        model=model,
        device=device,
        precision=precision,
        upstream_calls=upstream_calls,
    )
