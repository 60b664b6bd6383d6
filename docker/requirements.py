"""Prints the requirements of the package and of some of its extras, one per line.

    requirements.py PYPROJECT EXTRA,EXTRA

A layer of the image is made from this list alone, so that it stays as it is if only code changed.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: list[str]) -> list[str]:
    """The package's own requirements and those of the extras, each once.

    An extra can require other extras of the package (`upscaled[webhooks]`): they are written out,
    because pip would look for the package itself in an index.
    """
    itself = re.compile(rf"{re.escape(project['name'])}\[([\w,-]+)\]")

    def of_extra(extra: str) -> Iterator[str]:
        for requirement in project["optional-dependencies"][extra]:
            if found := itself.fullmatch(requirement):
                for other in found[1].split(","):
                    yield from of_extra(other)
            else:
                yield requirement

    chosen = [requirement for extra in extras for requirement in of_extra(extra)]
    return list(dict.fromkeys([*project["dependencies"], *chosen]))


if __name__ == "__main__":
    described = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))
    print("\n".join(requirements(described["project"], sys.argv[2].split(","))))
