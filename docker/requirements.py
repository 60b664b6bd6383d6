"""Prints what the package needs, one requirement per line: requirements.py PYPROJECT EXTRA,EXTRA

A layer of the image is made from this list alone, so that it stays as it is if only code changed.
"""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path(sys.argv[1]).read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
chosen = [requirement for extra in sys.argv[2].split(",") for requirement in extras[extra]]
print("\n".join([*project["dependencies"], *chosen]))
