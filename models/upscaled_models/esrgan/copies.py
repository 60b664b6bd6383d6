"""Copies of foreign networks, by compiled steps: modules turn tokens to channels and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from upscaled_models.esrgan.compiled.transpose import transposed


class CompiledCopies(TorchFunctionMode):
    """While active, `contiguous()` is a compiled copy if there is one. Only for inference."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        copied = None
        if func is Tensor.contiguous and len(args) == 1 and not kwargs and type(args[0]) is Tensor:
            copied = transposed(args[0])
        return func(*args, **(kwargs or {})) if copied is None else copied
