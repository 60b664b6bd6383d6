"""What people run the same networks with, each a call that upscales one picture in memory."""

from __future__ import annotations

import struct
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_LEAKY_RELU = "9=2 -23310=1,2.000000e-01"


def openvino_forward(
    module: nn.Module, picture: Tensor, dtype: torch.dtype
) -> Callable[[], object]:
    """OpenVINO's forward of a network for pictures of that shape. Raises `ImportError`."""
    import openvino

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a network branches on is the same for this shape
        model = openvino.convert_model(module, example_input=picture, input=list(picture.shape))
    hint = {torch.bfloat16: "bf16"}.get(dtype, "f32")
    compiled = openvino.compile_model(
        model,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    request = compiled.create_infer_request()
    pixels = picture.numpy()
    return lambda: request.infer([pixels])


def ncnn_forward(weights: dict[str, Tensor], blocks: int, picture: Tensor) -> Callable[[], Tensor]:
    """ncnn's forward of an RRDB of scale 4 on the processor. Raises `ImportError`."""
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = torch.get_num_threads()
    net.opt.use_vulkan_compute = False
    with tempfile.TemporaryDirectory() as folder:
        network = _NcnnRrdb(weights)
        network.add_all(blocks)
        param, binary = Path(folder, "rrdb.param"), Path(folder, "rrdb.bin")
        param.write_text(network.param(), "ascii")
        binary.write_bytes(b"".join(network.numbers))
        net.load_param(str(param))
        net.load_model(str(binary))
    pixels = np.ascontiguousarray(picture[0].numpy())

    def forward() -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in", ncnn.Mat(pixels))
        _, result = extractor.extract("out")
        return torch.from_numpy(np.array(result))

    return forward


class _NcnnRrdb:
    """An RRDB as ncnn's files have it: a line for each layer, and the weights in their order."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights = weights
        self._lines: list[tuple[str, list[str], str]] = []
        self.numbers: list[bytes] = []

    def add_all(self, blocks: int) -> None:
        trunk = first = self._convolution("in", "model.0", activated=False)
        for number in range(blocks):
            block = trunk
            for part in ("RDB1", "RDB2", "RDB3"):
                block = self._dense(block, f"model.1.sub.{number}.{part}")
            trunk = self._sum(block, trunk, 0.2)
        last = self._convolution(trunk, f"model.1.sub.{blocks}", activated=False)
        x = self._sum(last, first, 1.0)
        for name in ("model.3", "model.6"):
            larger = self._add("Interp", [x], "0=1 1=2.0 2=2.0")
            x = self._convolution(larger, name, activated=True)
        x = self._convolution(x, "model.8", activated=True)
        self._convolution(x, "model.10", activated=False)

    def param(self) -> str:
        """The layers, with what is read more than once split, as ncnn wants it."""
        readers: dict[str, int] = {}
        for _, inputs, _ in self._lines:
            for name in inputs:
                readers[name] = readers.get(name, 0) + 1
        lines, blobs, given = [], 0, dict.fromkeys(readers, 0)
        for number, (kind, inputs, text) in enumerate(self._lines):
            names = []
            for name in inputs:
                names.append(f"{name}_{given[name]}" if readers[name] > 1 else name)
                given[name] += 1
            result = self._result(number)
            lines.append(" ".join([kind, f"l{number}", str(len(names)), "1", *names, result, text]))
            blobs += 1
            copies = readers.get(result, 0)
            if copies > 1:
                parts = [f"{result}_{index}" for index in range(copies)]
                lines.append(" ".join(["Split", f"s{number}", "1", str(copies), result, *parts]))
                blobs += copies
        return "\n".join(
            ["7767517", f"{len(lines) + 1} {blobs + 1}", "Input in 0 1 in", *lines, ""]
        )

    def _result(self, number: int) -> str:
        return "out" if number == len(self._lines) - 1 else f"b{number}"

    def _add(self, kind: str, inputs: list[str], text: str) -> str:
        self._lines.append((kind, inputs, text))
        return f"b{len(self._lines) - 1}"

    def _convolution(self, source: str, name: str, *, activated: bool) -> str:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        # The flag in front says that the weights are in float32.
        self.numbers += [struct.pack("<i", 0), weight.numpy().tobytes(), bias.numpy().tobytes()]
        text = f"0={len(bias)} 1=3 4=1 5=1 6={weight.numel()}"
        return self._add("Convolution", [source], f"{text} {_LEAKY_RELU}" if activated else text)

    def _dense(self, source: str, name: str) -> str:
        parts = [source]
        for number in range(1, 6):
            joined = parts[0] if len(parts) == 1 else self._add("Concat", list(parts), "0=0")
            parts.append(self._convolution(joined, f"{name}.conv{number}.0", activated=number < 5))
        return self._sum(parts[-1], source, 0.2)

    def _sum(self, first: str, second: str, scale: float) -> str:
        return self._add("Eltwise", [first, second], f"0=1 -23301=2,{scale:e},1.000000e+00")
