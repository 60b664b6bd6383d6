"""The architecture: which package may import which, no import circles, and no long modules."""

from __future__ import annotations

import graphlib
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [
    ROOT / folder
    for folder in tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"][
        "build"
    ]["targets"]["wheel"]["packages"]
]
PACKAGES = {folder.name for folder in FOLDERS}

# The packages that each package may import. An adapter may import every package but the worker.
PROTOCOL = "upscaled_protocol"
BELOW = {
    PROTOCOL: set[str](),
    "upscaled_imaging": {PROTOCOL},
    "upscaled_models": {PROTOCOL, "upscaled_imaging"},
    "upscaled_worker": {PROTOCOL, "upscaled_imaging", "upscaled_models"},
    "upscaled_supervisor": {PROTOCOL},
    "upscaled": {PROTOCOL},
    "upscaled_webhooks": {PROTOCOL},
    "upscaled_queue": {PROTOCOL, "upscaled", "upscaled_imaging", "upscaled_webhooks"},
}
# Only these may import PyTorch.
WITH_TORCH = {"upscaled_models", "upscaled_bench"}

LONGEST = 400
GENERATED = "# Generated from "


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """All imports of our packages, also those within functions."""
    return grimp.build_graph(
        *PACKAGES,
        include_external_packages=True,
        exclude_type_checking_imports=True,
        cache_dir=None,
    )


@pytest.mark.parametrize("package", BELOW)
def test_a_package_imports_only_what_is_below_it(package: str, imports: grimp.ImportGraph) -> None:
    allowed = {package, *BELOW[package]}
    wrong = [
        f"{module} imports {imported}"
        for module in imports.find_descendants(package)
        for imported in imports.find_modules_directly_imported_by(module)
        if imported.split(".")[0] in PACKAGES - allowed
    ]
    assert wrong == []


def test_no_module_imports_itself_through_others(imports: grimp.ImportGraph) -> None:
    graph = {
        module: imports.find_modules_directly_imported_by(module)
        for module in imports.modules
        if module.split(".")[0] in PACKAGES
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules


def test_only_the_engines_import_torch(imports: grimp.ImportGraph) -> None:
    importers = imports.find_modules_that_directly_import("torch")
    assert {module.split(".")[0] for module in importers} == WITH_TORCH


def test_an_engine_imports_no_other_engine(imports: grimp.ImportGraph) -> None:
    engines = {
        module.rpartition(".")[0] for module in imports.modules if module.endswith(".engine")
    }
    between = {
        (engine, imported)
        for engine in engines - {"upscaled_models"}
        for module in imports.find_descendants(engine)
        for imported in imports.find_modules_directly_imported_by(module)
        if any(imported.startswith(f"{other}.") for other in engines - {engine, "upscaled_models"})
    }
    esrgan, face = "upscaled_models.esrgan", "upscaled_models.face"
    assert between == {
        # FLUX continues after the rows that an ESRGAN network has enlarged.
        ("upscaled_models.flux", f"{esrgan}.networks"),
        # Faces are restored in such rows, by networks that are loaded in the same way.
        (face, f"{esrgan}.networkengine"),
        (face, f"{esrgan}.networks"),
        (face, f"{esrgan}.loading"),
        (face, f"{esrgan}.morearchitectures"),
        # A job of ESRGAN may ask for that step.
        (esrgan, f"{face}.restoration"),
    }


def test_no_module_is_long() -> None:
    lengths = {
        path: text.count("\n")
        for folder in FOLDERS
        for path in folder.rglob("*.py")
        if not (text := path.read_text("utf-8")).startswith(GENERATED)
    }
    assert len(lengths) > 100
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}
