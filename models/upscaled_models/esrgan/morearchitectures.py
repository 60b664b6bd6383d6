"""Architectures of `spandrel_extra_arches`, which the extra `[more-architectures]` brings.

Their code is for non-commercial use only, so they are not installed by default, and each result of
one of them says so. The package is imported when a file of such an architecture is loaded.
Source of the licences: the LICENSE beside each architecture in spandrel's repository.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from functools import cache
from importlib.util import find_spec
from typing import Any

from upscaled_models.esrgan.architectures import MAIN_REGISTRY, UnsupportedModelError

EXTRA = "more-architectures"
# The licence of each architecture's code. The weights may have another one.
_LICENCES = {
    "AdaCode": "CC-BY-NC-SA-4.0",
    "CodeFormer": "S-Lab License 1.0",
    "DDColor": "Alibaba, for academic and non-commercial use",
    "FeMaSR": "CC-BY-NC-SA-4.0",
    "M3SNet": "Academic Public License",
    "MAT": "CC-BY-NC-4.0",
    "MIRNet2": "Academic Public License",
    "MPRNet": "Academic Public License",
    "Restormer": "Academic Public License",
    "SRFormer": "CC-BY-NC-4.0",
}
# The architectures that an engine uses, by names that only their weights have all of. The first
# match counts.
_BY_NAMES = {
    "SRFormer": (
        "conv_first.weight",
        "layers.0.residual_group.blocks.0.attn.aligned_relative_position_index",
    ),
    "AdaCode": (
        "multiscale_encoder.in_conv.weight",
        "weight_predictor.blocks.0.swin_blks.0.residual_group.blocks.0.norm1.weight",
    ),
    "FeMaSR": (
        "multiscale_encoder.in_conv.weight",
        "quantize_group.0.embedding.weight",
        "after_quant_group.0.conv.weight",
    ),
    "CodeFormer": (
        "position_emb",
        "quantize.embedding.weight",
        "ft_layers.0.self_attn.in_proj_weight",
        "idx_pred_layer.1.weight",
    ),
}
# What training programs put before every name.
_WRAPPER = "module."


def load(weights: dict[Any, Any]) -> Any:
    """The network that any known architecture builds from the weights, as spandrel's registry does.

    Raises `UnsupportedModelError`, and any exception of an architecture that cannot read them.
    """
    if is_installed() and architecture_of(weights) is not None:
        return _registry().load(weights)
    try:
        return MAIN_REGISTRY.load(weights)
    except UnsupportedModelError:
        if not is_installed():
            raise
    return _registry().load(weights)


def architecture_of(names: Collection[Any]) -> str | None:
    """The architecture of the extra that has weights of these names, if an engine uses it."""
    for name, wanted in _BY_NAMES.items():
        for prefix in ("", _WRAPPER):
            if all(prefix + one in names for one in wanted):
                return name
    return None


def how_to_load(name: str) -> str:
    """The end of a sentence about a file whose architecture is not installed."""
    return (
        f"it is of the architecture {name}, whose code is for non-commercial use only "
        f"({_LICENCES[name]}) and is not installed: run `pip install 'upscaled[{EXTRA}]'`"
    )


def licence_note(architecture: str) -> str | None:
    """One sentence about the licence of an architecture of the extra; None of any other."""
    if architecture not in _LICENCES:
        return None
    licence = _LICENCES[architecture]
    return f"the code of the architecture {architecture} is for non-commercial use only ({licence})"


def is_installed() -> bool:
    """True if the extra is installed. Does not import it."""
    return find_spec("spandrel_extra_arches") is not None


@cache
def _registry() -> Any:
    # One architecture calls a function that torch deprecates. Under `python -W error` its import
    # would fail, and that would look like a fault of the weights.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from spandrel_extra_arches import EXTRA_REGISTRY

    return EXTRA_REGISTRY
