"""FLUX.1-dev in miniature: files of the same names, layout, dtypes and quantisation, with random
weights, and the libraries' own modules with the very weights that the files hold."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.torch
import tokenizers
import torch
from gguf import GGMLQuantizationType as Quantisation
from torch import Tensor

from upscaled_models.catalog import Catalog, bundled_weights_dir
from upscaled_models.flux.files import Files, find_files
from upscaled_models.flux.libraries import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    FluxTransformer2DModel,
    T5Config,
    T5EncoderModel,
)
from upscaled_models.flux.names import autoencoder_origin, transformer_origin

CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "_class_name": "FluxTransformer2DModel",
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "guidance_embeds": True,
        "axes_dims_rope": [4, 6, 6],
    },
    "vae": {
        "latent_channels": 16,
        "block_out_channels": [4, 4, 8, 8],
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "text_encoder": {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 32,
        "bos_token_id": 48,
        "eos_token_id": 49,
        "pad_token_id": 49,
    },
    "text_encoder_2": {
        "vocab_size": 60,
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "feed_forward_proj": "gated-gelu",
        "eos_token_id": 1,
        "pad_token_id": 0,
    },
    "scheduler": {"shift": 3.1581929096897672},
}

# The published file quantises what is large and is not at an end of the model.
_QUANTISED_ENDINGS = (
    *("mod.lin.weight", "qkv.weight", "proj.weight", "mlp.0.weight", "mlp.2.weight"),
    *("modulation.lin.weight", "linear1.weight", "linear2.weight"),
)


@dataclass
class Replica:
    """A folder as MODEL_CACHE_DIR has it. The modules hold what the files hold, in float32."""

    folder: Path
    transformer: Any
    autoencoder: Any
    clip: Any
    t5: Any
    configs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def gguf(self) -> Path:
        return self.folder / "unet" / "flux1-dev-Q8_0.gguf"

    @property
    def vae(self) -> Path:
        return self.folder / "vae" / "ae.sft"

    @property
    def clip_l(self) -> Path:
        return self.folder / "clip" / "clip_l.safetensors"

    @property
    def t5xxl(self) -> Path:
        return self.folder / "clip" / "t5xxl_fp8_e4m3fn.safetensors"


def write_replica(
    folder: Path,
    *,
    quantisation: Quantisation = Quantisation.Q8_0,
    transformer: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Replica:
    """Write every file of the set, and the configs that say how small they are."""
    configs = {part: dict(fields) for part, fields in CONFIGS.items()}
    configs["transformer"] |= transformer or {}
    for part, fields in configs.items():
        own = folder / "configs" / part
        own.mkdir(parents=True)
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        (own / name).write_text(json.dumps(fields))
    for name in ("unet", "vae", "clip", "upscale_models"):
        (folder / name).mkdir()
    torch.manual_seed(0)
    replica = Replica(
        folder,
        transformer=FluxTransformer2DModel(**_fields(configs["transformer"])).eval(),
        autoencoder=AutoencoderKL(**configs["vae"]).eval(),
        clip=CLIPTextModel(CLIPTextConfig(**configs["text_encoder"])).eval(),
        t5=T5EncoderModel(T5Config(**configs["text_encoder_2"])).eval(),
        configs=configs,
    )
    write_transformer(replica, quantisation, prefix=prefix)
    write_autoencoder(replica)
    write_text_encoders(replica)
    write_tokenizers(replica)
    return replica


def write_transformer(
    replica: Replica,
    quantisation: Quantisation = Quantisation.Q8_0,
    *,
    prefix: str = "",
    architecture: str = "flux",
) -> None:
    """Write the GGUF file, and give the module the weights that it holds."""
    parts: dict[str, list[tuple[int, str]]] = {}
    for name in replica.transformer.state_dict():
        origin = transformer_origin(name)
        parts.setdefault(origin.name, []).append((origin.part, name))
    held = replica.transformer.state_dict()
    writer = gguf.GGUFWriter(replica.gguf, architecture)
    for name, pieces in parts.items():
        kind = _kind(name, quantisation)
        stored = []
        for _, parameter in sorted(pieces):
            rows, values = _quantised(held[parameter].numpy(), kind)
            stored.append(rows)
            held[parameter].copy_(torch.from_numpy(values.reshape(held[parameter].shape)))
        data = np.concatenate(stored)
        if transformer_origin(pieces[0][1]).swapped:
            data = np.concatenate(np.split(data, 2)[::-1])
        writer.add_tensor(prefix + name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_autoencoder(replica: Replica) -> None:
    """Write ae.sft, all in float32, with attention as convolutions of one pixel."""
    levels = len(replica.configs["vae"]["block_out_channels"])
    tensors = {}
    for parameter, value in replica.autoencoder.state_dict().items():
        name = autoencoder_origin(parameter, levels).name
        is_matrix = ".attn_1." in name and value.ndim == 2
        tensors[name] = (value[:, :, None, None] if is_matrix else value).contiguous()
    safetensors.torch.save_file(tensors, replica.vae)


def write_text_encoders(replica: Replica, dtype: torch.dtype = torch.float8_e4m3fn) -> None:
    """Write CLIP in float16 and T5 in fp8, its embedding twice as in the published file."""
    clip = _rounded(replica.clip, torch.float16)
    tensors = {f"text_model.{name}": value for name, value in clip.items()}
    safetensors.torch.save_file(tensors, replica.clip_l)
    t5 = _rounded(replica.t5, dtype)
    t5["encoder.embed_tokens.weight"] = t5["shared.weight"].clone()
    safetensors.torch.save_file(t5, replica.t5xxl)


def write_tokenizers(replica: Replica) -> None:
    """Two vocabularies of a few words, of the encoders' sizes."""
    for name, part in (("clip_l", "text_encoder"), ("t5xxl", "text_encoder_2")):
        size = replica.configs[part]["vocab_size"]
        words = {"[UNK]": 2, "a": 3, "cat": 4} | {f"w{index}": index for index in range(5, size)}
        words |= {"[0]": 0, "[1]": 1}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
        tokenizer.save(str(replica.folder / "clip" / f"{name}.tokenizer.json"))


def install_upscaler(folder: Path) -> str:
    """Copy a small first stage to the place of 4x-UltraSharp; its name for jobs."""
    shutil.copy(bundled_weights_dir() / "compact-x4.safetensors", folder / "upscale_models")
    return "compact-x4"


def _fields(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if not key.startswith("_")}


def _kind(name: str, quantisation: Quantisation) -> Quantisation:
    if name.startswith(("double_blocks", "single_blocks")) and name.endswith(_QUANTISED_ENDINGS):
        return quantisation
    return Quantisation.F32 if name.endswith(("bias", "scale")) else Quantisation.F16


def _quantised(values: np.ndarray, kind: Quantisation) -> tuple[np.ndarray, np.ndarray]:
    """Values as the file has them, and what that stands for."""
    try:
        stored = gguf.quants.quantize(values, kind)
    except NotImplementedError:  # the package can read the K-quants, not write them
        stored = _any_blocks(values.shape, kind)
    return stored, np.asarray(gguf.quants.dequantize(stored, kind), np.float32)


def _any_blocks(shape: tuple[int, ...], kind: Quantisation) -> np.ndarray:
    """Blocks of random bytes, whose scales (float16) are small."""
    block_values, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    generator = np.random.default_rng(1)
    count = int(np.prod(shape)) // block_values
    blocks = generator.integers(0, 256, (count, block_bytes), np.uint8)
    scale = np.full((count, 1), 0.001, np.float16).view(np.uint8)
    for start in _SCALES[kind]:
        blocks[:, start : start + 2] = scale
    return blocks.reshape(*shape[:-1], shape[-1] // block_values * block_bytes)


# Byte offsets of a block's float16 scales.
_SCALES = {
    Quantisation.Q2_K: (80, 82),
    Quantisation.Q3_K: (108,),
    Quantisation.Q4_K: (0, 2),
    Quantisation.Q5_K: (0, 2),
    Quantisation.Q6_K: (208,),
    Quantisation.IQ4_NL: (0,),
    Quantisation.IQ4_XS: (0,),
}


def _rounded(module: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The module's weights in a dtype, after it was given what they then are."""
    stored = {}
    for name, value in module.named_parameters():
        stored[name] = value.detach().to(dtype).contiguous()
        value.data.copy_(stored[name].to(torch.float32))
    return stored


def job_files(folder: Path) -> Files:
    """The files that a job finds in a model folder."""
    return find_files(Catalog.load(), "flux", folder)
