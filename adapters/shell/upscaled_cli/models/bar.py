"""A bar on a terminal for the bytes of a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from upscaled_cli.download import Progress


@contextmanager
def bar(what: str, size_bytes: int | None) -> Iterator[Progress]:
    """A function that shows the bytes so far and the bytes in all."""
    from tqdm import tqdm

    with tqdm(
        desc=what,
        total=size_bytes,
        unit="B",
        unit_scale=True,
        disable=None,  # no bar if stderr is no terminal
    ) as shown:

        def show(done: int, total: int | None) -> None:
            shown.total = total
            shown.update(done - shown.n)

        yield show
