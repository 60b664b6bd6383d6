"""`model: "auto"` as an enlarger: a job's look at the picture, and the model that it chooses."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

from PIL import Image

from upscaled_bench.evaluation.enlargers import Enlarger, Pixels
from upscaled_bench.one_job import Surroundings
from upscaled_imaging.damage import look_for_damage
from upscaled_imaging.read import open_source
from upscaled_imaging.settings import PictureSettings
from upscaled_models.esrgan.automatic import AUTO, PAIRS, choose
from upscaled_protocol.configs import ImageConfig


def automatic(networks: Sequence[Enlarger]) -> Enlarger | None:
    """What a job with `model: "auto"` does, with networks of one scale; None if there is no pair
    of a model for clean and one for damaged pictures among them.

    A picture is judged as a PNG: a JPEG's own header would tell more.
    """
    by_name = {network.name: network for network in networks}
    pair = next((pair for pair in PAIRS if {pair.clean, pair.damaged} <= set(by_name)), None)
    if pair is None:
        return None

    def chosen(small: Pixels) -> str:
        buffer = io.BytesIO()
        Image.fromarray(small).save(buffer, "PNG", compress_level=1)
        config = ImageConfig(image_base64=base64.b64encode(buffer.getvalue()).decode())
        with open_source(config, PictureSettings(), Surroundings()) as source:
            return choose(look_for_damage(source), pair.scale, by_name.__contains__).model

    def enlarge(small: Pixels) -> Pixels:
        return by_name[chosen(small)].enlarge(small)

    return Enlarger(AUTO, pair.scale, enlarge, chosen)
