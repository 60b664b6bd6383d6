"""How files store numbers, and how these become floating-point weights.

Plain formats are single numbers. GGML's quantised formats hold a block of values as small integers
with a scale; each such value is exact in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from torch import Tensor

_PLAIN = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
}
# The formats that diffusers expands with torch, and so also on an accelerator.
_QUANTISED = (
    *("Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "Q4_1", "Q4_0"),
    *("Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS"),
)


# Blocks that are expanded at once. On a processor so few that they stay in its caches, which is two
# to three times as fast as all at once (`upscaled bench flux`). Other devices expand all at once.
_AT_ONCE = {"cpu": 1 << 13}


@dataclass(frozen=True)
class Format:
    """`block_values` numbers take `block_bytes` bytes. dtype is None for quantised formats."""

    name: str
    block_values: int
    block_bytes: int
    dtype: torch.dtype | None = None


FORMATS = {name: Format(name, 1, dtype.itemsize, dtype) for name, dtype in _PLAIN.items()} | {
    name: Format(name, *GGML_QUANT_SIZES[GGMLQuantizationType[name]]) for name in _QUANTISED
}


def expand(stored: Tensor, format_: Format, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Stored bytes (uint8, in the order of the file) as numbers of `shape`, on the same device.

    Exact in float32. Other dtypes are rounded from it once.
    """
    if format_.dtype is not None:
        return stored.view(format_.dtype).view(shape).to(dtype)
    blocks = stored.view(-1, format_.block_bytes)
    values = torch.empty(len(blocks), format_.block_values, dtype=dtype, device=stored.device)
    step = _AT_ONCE.get(stored.device.type, max(len(blocks), 1))
    for start in range(0, len(blocks), step):
        part = slice(start, start + step)
        _expand_blocks(blocks[part], format_, values[part])
    return values.view(shape)


def _expand_blocks(blocks: Tensor, format_: Format, values: Tensor) -> None:
    if format_.name == "Q8_0":
        # The usual format (GGML's block_q8_0: a float16 scale and 32 signed bytes) has code of its
        # own: one product, rounded while it is computed. The general function writes all numbers
        # to memory in float32 three times.
        scales = blocks[:, :2].view(torch.float16).to(torch.float32)
        torch.mul(blocks[:, 2:].view(torch.int8), scales, out=values)
        return
    from upscaled_models.flux.libraries import dequantize_functions

    values.copy_(
        dequantize_functions[GGMLQuantizationType[format_.name]](
            blocks, format_.block_values, format_.block_bytes, torch.float32
        )
    )
