"""FLUX transformers of any size with random weights, without a download."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from upscaled_models.flux.files import Files
from upscaled_models.flux.formats import FORMATS, Format
from upscaled_models.flux.header import Entry, WeightsFile
from upscaled_models.flux.libraries import FluxTransformer2DModel
from upscaled_models.flux.names import transformer_origin
from upscaled_models.flux.transformer import Placement, Transformer, fill_transformer

_REST = FORMATS["F16"]


def published_config(part: str = "transformer") -> dict[str, Any]:
    """FLUX.1-dev's."""
    nowhere = Path("nowhere")
    return Files(nowhere, *[nowhere] * 6).config(part)


def build(config: Mapping[str, Any]) -> Any:
    """A transformer without weights."""
    with torch.device("meta"):
        return FluxTransformer2DModel(**config)


class RandomFile(WeightsFile):
    """A weights file in memory, with the blocks' matrices quantised as in the published one.

    The numbers are random and small, and repeat in long tensors: the time of a product does not
    depend on them.
    """

    def __init__(self, config: Mapping[str, Any], quantisation: str = "Q8_0") -> None:
        shapes: dict[str, tuple[int, ...]] = {}
        for parameter, value in build(config).named_parameters():
            name = transformer_origin(parameter).name
            above = shapes.get(name, (0,))[0]
            shapes[name] = (above + value.shape[0], *value.shape[1:])
        quantised = FORMATS[quantisation]
        self.path = Path("random.gguf")
        self.entries = {
            name: Entry(shape, quantised if len(shape) == 2 and "blocks." in name else _REST, 0)
            for name, shape in shapes.items()
        }
        longest = max(entry.size_bytes for entry in self.entries.values())
        self._random = {each.name: _random_bytes(each, longest) for each in (quantised, _REST)}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        entry = self.entries[name]
        count = (stop - start) * entry.row_bytes
        random = self._random[entry.format.name][:count]
        return random.view(stop - start, entry.row_bytes).clone()

    def write(self, path: Path) -> None:
        """Write it as a GGUF file."""
        writer = gguf.GGUFWriter(path, "flux")
        kinds = gguf.GGMLQuantizationType
        for name, entry in self.entries.items():
            data = self.rows(name, 0, entry.shape[0]).numpy()
            if len(entry.shape) == 1:
                data = data.reshape(-1)
            writer.add_tensor(name, data, raw_dtype=kinds[entry.format.name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def random_transformer(
    config: Mapping[str, Any],
    device: torch.device,
    dtype: torch.dtype,
    placement: Placement,
) -> Transformer:
    """One on a device, by the code that loads the real files."""
    return fill_transformer(
        build(config),
        RandomFile(config),
        device=device,
        dtype=dtype,
        placement=placement,
        each=lambda *_: None,
    )


def _random_bytes(kind: Format, count: int) -> Tensor:
    generator = np.random.default_rng(0)
    blocks = math.ceil(count / kind.block_bytes)
    if kind.dtype is not None:
        return torch.from_numpy(generator.normal(0, 0.02, blocks)).to(kind.dtype).view(torch.uint8)
    data = generator.integers(0, 256, (blocks, kind.block_bytes), np.uint8)
    # Q8_0: a float16 scale before 32 signed bytes; about 0.02 for their deviation.
    data[:, :2] = np.array([0.02 / 74], np.float16).view(np.uint8)
    return torch.from_numpy(data).view(-1)
