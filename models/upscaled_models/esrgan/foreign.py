"""Names weights that fit no upscaling architecture, as the end of a sentence for the user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from upscaled_models.esrgan.standins import Ignored

# Dictionaries inside dictionaries. The limit also ends a loop of references in a pickle.
_DEEPEST = 4
_MOST_NAMES = 10_000
_TRAINING = frozenset(
    {"epoch", "iter", "step", "optimizer", "optimizers", "optimizer_state_dict", "scheduler",
     "schedulers", "lr_scheduler", "lr_schedulers", "param_groups", "state", "global_step"}
)  # fmt: skip
_FOR_FACES = 'choose GFPGANv1.4, and send it with "method": "face"'
_DISCRIMINATOR = (
    "a discriminator, which only training needs: choose the generator that was saved with it"
)
# What weights are, by a pattern in one of their names. The first match counts.
_KNOWN = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        (
            "a LoRA, which only changes another model: choose a super-resolution model",
            r"lora_(A|B|up|down)\b|\.hada_w1_a",
        ),
        (
            'a FLUX transformer: send it with "method": "flux"',
            r"^(model\.diffusion_model\.)?double_blocks\.\d{1,4}\.|^transformer_blocks\.\d{1,4}\.attn",
        ),
        (
            "a diffusion model's checkpoint: choose a super-resolution model",
            r"^model\.diffusion_model\.|^first_stage_model\.|^cond_stage_model\.|^control_model\.",
        ),
        (
            "a text encoder: choose a super-resolution model",
            r"text_model\.encoder|^encoder\.block\.\d|bert\.encoder",
        ),
        # Files that lie beside those of GFPGAN, RestoreFormer and CodeFormer.
        (
            f"the first version of GFPGAN, which is not read: {_FOR_FACES}",
            r"^conv_body_first\.0\.weight$",
        ),
        (
            "a RestoreFormer as it is trained, or a RestoreFormer++: choose RestoreFormer",
            r"^vqvae\.(en|de)coder\.",
        ),
        (f"a GPEN, which is not read: {_FOR_FACES}", r"^ecd\d\.\d\."),
        (
            f"a face detector, and faces are found without it: {_FOR_FACES}",
            r"^(module\.)?ClassHead\.\d\.",
        ),
        (
            f"a network that marks the parts of a face, and none is needed: {_FOR_FACES}",
            r"^out_mask_conv\.|^cp\.resnet\.",
        ),
        (_DISCRIMINATOR, r"discriminator|^(module\.)?(net_?d|netD|d_net|disc)\."),
        (_DISCRIMINATOR, r"^(module\.)?conv\d_\d\.weight$|^(module\.)?conv\d\.weight_(orig|u)$"),
        (
            "a classifier or detector: choose a super-resolution model",
            r"^(module\.)?(fc|classifier|head\.fc)(\.\d)?\.weight$|\.anchors$",
        ),
    )
)
_DISCRIMINATORS_PLACES = frozenset({"net_d", "netD", "discriminator", "d", "D", "model_d"})


def what_it_is(weights: dict[Any, Any]) -> str | None:
    """The end of a sentence about weights of no known architecture; None if nothing matches."""
    found = list(_walk(weights, _DEEPEST))
    is_optimizer = {"state", "param_groups"} <= {*weights}
    if is_optimizer or not any(isinstance(value, Tensor) for _, value in found):
        return _without_weights(weights, found)
    if {*weights} <= _DISCRIMINATORS_PLACES:
        return f"it is {_DISCRIMINATOR}"
    names = [name for name, _ in found if isinstance(name, str)]
    for kind, pattern in _KNOWN:
        if any(pattern.search(name) for name in names):
            return f"it is {kind}"
    if _TRAINING & {*weights}:
        return (
            "it is a training checkpoint, and no network in it is of a known architecture: "
            "choose a super-resolution model that spandrel knows"
        )
    return None


def _without_weights(weights: dict[Any, Any], found: list[tuple[Any, Any]]) -> str:
    if _TRAINING & {*weights}:
        return (
            "it is a training state (optimizer, epoch, ...) without weights: "
            "choose the model that was saved beside it"
        )
    if any(isinstance(value, Ignored) for _, value in found):
        return (
            "it holds values of another program, such as NumPy arrays, and no tensors: "
            "get the same model as .safetensors"
        )
    return "it holds no weights: choose a super-resolution model"


def _walk(weights: dict[Any, Any], depth: int) -> Iterator[tuple[Any, Any]]:
    """Names and values of the weights, and of the dictionaries inside them."""
    for count, (name, value) in enumerate(weights.items()):
        if count == _MOST_NAMES:
            return
        yield name, value
        if isinstance(value, dict) and depth:
            yield from _walk(value, depth - 1)
