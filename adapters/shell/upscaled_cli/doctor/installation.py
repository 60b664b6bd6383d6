"""Python, the machine, the libraries and the extras."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping

from upscaled_cli.doctor.finding import Finding
from upscaled_imaging.cores import allowed_cores
from upscaled_imaging.kinds import read_kinds
from upscaled_models.esrgan.compiled import LIBRARY
from upscaled_protocol.memorygroup import total_bytes
from upscaled_protocol.requirements import distributions_of, unsuitable, wanted
from upscaled_protocol.requirements import installed_version as version

# Loading torch from a slow disk takes a while.
_LOAD_TIMEOUT_S = 180

# What must load, the lightest first: a module that imports it, and its distributions.
_LIBRARIES = {
    "psutil": ("psutil", ("psutil",)),
    "protocol": ("upscaled_protocol.codec", ("pydantic", "orjson")),
    "libvips": ("upscaled_imaging.libvips", ("pyvips", "pyvips-binary")),
    "torch": ("torch", ("torch", "torchvision")),
    "spandrel": ("upscaled_models.esrgan.loading", ("spandrel", "safetensors")),
}
# The purpose of each extra. Extras for developers are left out.
_PURPOSES = {
    "faces": "faces: their detector",
    "flux": "FLUX jobs",
    "heic": "HEIC pictures",
    "imagen": "Imagen jobs",
    "jxl": "JPEG XL pictures",
    "more-architectures": "SRFormer, FeMaSR, AdaCode, CodeFormer: code for non-commercial use only",
    "nvml": "the GPU memory of each worker",
}

# Imports one library after the other, and prints each outcome. `error` is None if it loads.
_IMPORTER = """
import importlib, json, sys
for module in sys.argv[1:]:
    print(json.dumps([module]), flush=True)
    try:
        importlib.import_module(module)
        error = None
    except BaseException as failure:
        error = f"{type(failure).__name__}: {failure}"
    print(json.dumps([module, error]), flush=True)
"""


def python() -> Finding:
    """The interpreter."""
    return Finding("python", "ok", f"{sys.version.split()[0]}, {sys.executable}")


def machine() -> Finding:
    """Cores and memory."""
    try:
        memory = f", {total_bytes() / 2**30:.1f} GiB of memory"
    except ImportError:  # the libraries' findings say so
        memory = ""
    cores = allowed_cores()
    return Finding("machine", "ok", f"{cores} core{'' if cores == 1 else 's'}{memory}")


def compiled_steps() -> Iterator[Finding]:
    """A note if the package was built without GCC, because only the times show it otherwise."""
    if not LIBRARY.exists():
        text = "ESRGAN's C is not compiled: on a processor torch takes several times as long"
        yield Finding("compiled", "note", text, "install GCC, then upscaled once more")


def libraries(is_proven: bool, show: Callable[[str], None]) -> Iterator[Finding]:
    """One finding per library. is_proven: the daemon loaded all of them, so none is tried again."""
    missing = {
        name: [one for one in distributions if version(one) is None]
        for name, (_, distributions) in _LIBRARIES.items()
    }
    modules = [module for name, (module, _) in _LIBRARIES.items() if not missing[name]]
    errors = {} if is_proven else dict(_import_errors(modules, show))
    for name, (module, distributions) in _LIBRARIES.items():
        if missing[name]:
            absent = " ".join(missing[name])
            yield Finding(name, "problem", f"{absent}: not installed", f"pip install {absent}")
            continue
        versions = ", ".join(f"{one} {version(one)}" for one in distributions)
        unfit = {one: fault for one in distributions if (fault := unsuitable(one))}
        if unfit:
            yield _unfit(name, unfit)
        elif errors.get(module) is None:
            yield Finding(name, "ok", f"{versions}: loads")
        else:
            yield Finding(
                name,
                "problem",
                f"{versions}: does not load: {errors[module]}",
                f"pip install --force-reinstall --no-deps {' '.join(distributions)}",
            )


def extras() -> Iterator[Finding]:
    """The extras, and which of them are installed."""
    for name, purpose in _PURPOSES.items():
        distributions = list(distributions_of(name))
        absent = [one for one in distributions if version(one) is None]
        unfit = {one: fault for one in distributions if (fault := unsuitable(one))}
        if unfit:
            yield _unfit(f"[{name}]", unfit)
        elif absent:
            text = f"for {purpose}: {', '.join(absent)} not installed"
            yield Finding(f"[{name}]", "note", text, f"pip install 'upscaled[{name}]'")
        elif distributions:
            yield Finding(f"[{name}]", "ok", f"for {purpose}: installed")


def _unfit(name: str, faults: Mapping[str, str]) -> Finding:
    """faults: those of versions, by distribution."""
    advice = f"pip install {' '.join(map(wanted, faults))}"
    return Finding(name, "problem", "; ".join(faults.values()), advice)


def pictures() -> Finding:
    """The kinds of pictures that are read."""
    return Finding("pictures", "ok", f"{', '.join(read_kinds())} are read")


def _import_errors(
    modules: list[str], show: Callable[[str], None]
) -> Iterator[tuple[str, str | None]]:
    """Modules, and why they cannot be imported. Another process tries, because a broken library may
    crash it."""
    while modules:
        show(f"loading {', '.join(modules)}")
        try:
            done = subprocess.run(
                # -P: without the working folder.
                [sys.executable, "-P", "-c", _IMPORTER, *modules],
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                timeout=_LOAD_TIMEOUT_S,
            )
            output, fault = done.stdout, f"the process ended with status {done.returncode}"
            if done.returncode < 0:
                fault = f"the process was killed by signal {-done.returncode}"
        except subprocess.TimeoutExpired as error:
            output = (error.stdout or b"").decode()
            fault = f"it does not end within {_LOAD_TIMEOUT_S} s"
        answers = [json.loads(line) for line in output.splitlines() if line.startswith("[")]
        errors = {answer[0]: answer[1] for answer in answers if len(answer) > 1}
        yield from errors.items()
        if len(errors) == len(modules):
            return
        # The module after the last answer has ended the process. The rest gets another process.
        yield modules[len(errors)], fault
        modules = modules[len(errors) + 1 :]
