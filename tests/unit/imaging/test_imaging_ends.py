"""The registries of inputs and outputs: one kind per config field."""

from __future__ import annotations

from upscaled_imaging.destinations import DESTINATIONS
from upscaled_imaging.origins import ORIGINS
from upscaled_protocol.configs import ImageConfig


def test_every_input_field_of_a_config_has_a_kind() -> None:
    fields = {name for name in ImageConfig.model_fields if name.startswith("image_")}
    assert fields == set(ORIGINS)


def test_every_output_field_of_a_config_has_a_kind() -> None:
    choices = {"output_format"}
    fields = {name for name in ImageConfig.model_fields if name.startswith("output_")}
    assert fields - choices == set(DESTINATIONS)
