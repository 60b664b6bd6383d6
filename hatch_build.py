"""Compiles the ESRGAN engine's C if there is GCC; without it the package is slower."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

_FOLDER = Path("models/upscaled_models/esrgan/compiled")
_NAMES = ("processor", "passes", "winograd", "amx", "attention", "transpose", "colour", "smooth")
_SOURCES = tuple(_FOLDER / f"{name}.c" for name in _NAMES)
_LIBRARY = _FOLDER / "_native.so"
_FLAGS = ("-O3", "-fPIC", "-fopenmp")


class CompiledSteps(BuildHookInterface):
    """The compiler is `cc`, or what the environment's CC says. It has to be GCC."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the library in the package."""
        library = Path(self.root, _LIBRARY)
        library.unlink(missing_ok=True)
        try:
            self._compile(library)
        except OSError as error:
            self.app.display_warning(f"the ESRGAN engine's C was not compiled: {error}")
        except subprocess.CalledProcessError as error:
            self.app.display_warning(f"the ESRGAN engine's C was not compiled:\n{error.stderr}")
        else:
            build_data["artifacts"].append(f"/{_LIBRARY}")
            build_data["pure_python"] = False
            # Of this system, but for any Python.
            build_data["tag"] = f"py3-none-{next(sys_tags()).platform}"

    def _compile(self, library: Path) -> None:
        compiler = shlex.split(os.environ.get("CC", "cc"))
        with tempfile.TemporaryDirectory() as folder:
            compiled = [str(Path(folder, source.stem + ".o")) for source in _SOURCES]
            compiling = [
                [*compiler, *_FLAGS, "-c", str(Path(self.root, source)), "-o", to]
                for source, to in zip(_SOURCES, compiled, strict=True)
            ]
            # Without -fopenmp the linker names no OpenMP library: torch's own, which is in the
            # process before this one, serves it. A second one would start threads of its own.
            linking = [*compiler, "-shared", *compiled, "-o", str(library)]
            for command in (*compiling, linking):
                subprocess.run(command, check=True, capture_output=True, text=True)
