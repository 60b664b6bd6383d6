"""Which operations torch is asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class TorchCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, counts the operations that are called, by name: `softmax`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))
