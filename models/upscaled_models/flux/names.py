"""Maps parameters of the libraries' modules to tensors of the published files.

The files have the names of the training code. diffusers and transformers have other names, split
tensors that are fused in the files, and in one place have the halves in the opposite order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple


class Origin(NamedTuple):
    """A tensor of a file, or the `part`-th piece of its rows. swapped: its halves are exchanged."""

    name: str
    part: int = 0
    swapped: bool = False


# From the name of a parameter to its origin.
OriginOf = Callable[[str], Origin]

_TRANSFORMER = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
}
_DOUBLE_BLOCK = {
    "norm1.linear": Origin("img_mod.lin"),
    "norm1_context.linear": Origin("txt_mod.lin"),
    "attn.norm_q": Origin("img_attn.norm.query_norm"),
    "attn.norm_k": Origin("img_attn.norm.key_norm"),
    "attn.norm_added_q": Origin("txt_attn.norm.query_norm"),
    "attn.norm_added_k": Origin("txt_attn.norm.key_norm"),
    "attn.to_q": Origin("img_attn.qkv", 0),
    "attn.to_k": Origin("img_attn.qkv", 1),
    "attn.to_v": Origin("img_attn.qkv", 2),
    "attn.add_q_proj": Origin("txt_attn.qkv", 0),
    "attn.add_k_proj": Origin("txt_attn.qkv", 1),
    "attn.add_v_proj": Origin("txt_attn.qkv", 2),
    "attn.to_out.0": Origin("img_attn.proj"),
    "attn.to_add_out": Origin("txt_attn.proj"),
    "ff.net.0.proj": Origin("img_mlp.0"),
    "ff.net.2": Origin("img_mlp.2"),
    "ff_context.net.0.proj": Origin("txt_mlp.0"),
    "ff_context.net.2": Origin("txt_mlp.2"),
}
_SINGLE_BLOCK = {
    "norm.linear": Origin("modulation.lin"),
    "attn.norm_q": Origin("norm.query_norm"),
    "attn.norm_k": Origin("norm.key_norm"),
    "attn.to_q": Origin("linear1", 0),
    "attn.to_k": Origin("linear1", 1),
    "attn.to_v": Origin("linear1", 2),
    "proj_mlp": Origin("linear1", 3),
    "proj_out": Origin("linear2"),
}
_BLOCK = re.compile(r"(single_)?transformer_blocks\.(\d+)\.(.+)")


def transformer_origin(parameter: str) -> Origin:
    """The origin of a parameter of diffusers' `FluxTransformer2DModel`."""
    module, _, kind = parameter.rpartition(".")
    block = _BLOCK.fullmatch(module)
    if block is None:
        swapped = module == "norm_out.linear"
        return Origin(f"{_TRANSFORMER[module]}.{kind}", swapped=swapped)
    single, number, inner = block.groups()
    name, part, _ = (_SINGLE_BLOCK if single else _DOUBLE_BLOCK)[inner]
    # The norms of queries and keys have one vector, which the files call their scale.
    kind = "scale" if name.endswith("_norm") else kind
    return Origin(f"{'single' if single else 'double'}_blocks.{number}.{name}.{kind}", part)


_AUTOENCODER = (
    (r"mid_block\.resnets\.0", r"mid.block_1"),
    (r"mid_block\.resnets\.1", r"mid.block_2"),
    (r"mid_block\.attentions\.0\.group_norm", r"mid.attn_1.norm"),
    (r"mid_block\.attentions\.0\.to_out\.0", r"mid.attn_1.proj_out"),
    (r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1"),
    (r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2"),
    (r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)", r"up.\1.block.\2"),
    (r"up_blocks\.(\d+)\.upsamplers\.0", r"up.\1.upsample"),
    (r"conv_shortcut", r"nin_shortcut"),
    (r"conv_norm_out", r"norm_out"),
)


def autoencoder_origin(parameter: str, levels: int) -> Origin:
    """The origin of a parameter of diffusers' `AutoencoderKL` with so many resolutions."""
    name = parameter
    for pattern, replacement in _AUTOENCODER:
        name = re.sub(pattern, replacement, name)
    # The files number the decoder's resolutions from the finest one, diffusers from the coarsest.
    return Origin(re.sub(r"\.up\.(\d+)", lambda found: f".up.{levels - 1 - int(found[1])}", name))


def clip_origin(parameter: str) -> Origin:
    """The origin of a parameter of transformers' `CLIPTextModel`."""
    return Origin(f"text_model.{parameter}")


def t5_origin(parameter: str) -> Origin:
    """The origin of a parameter of transformers' `T5EncoderModel`: all names are the same."""
    return Origin(parameter)
