"""`make docs-test`: what `make dist` built works in empty projects outside the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from documents import ROOT, files

DIST = ROOT / "dist"
PICTURE = ROOT / "examples" / "astronaut.jpg"
GO_MODULE = "github.com/upscaled/upscaled/adapters/go"

# An installation of torch, on a busy machine.
TIMEOUT_S = 1200

# Prints the size of the picture that it made.
HOST = """
async function main(Upscaler) {
  const up = await Upscaler.start();
  const config = { image_path: "in.jpg", output_path: "out.png", upscale_factor: 2 };
  const { output_size } = await up.upscale({ method: "esrgan", config });
  await up.close();
  return `${output_size.width}x${output_size.height}`;
}
"""
TYPED_HOST = """
import { JobError, Upscaler } from "upscaled";
import { HttpUpscaler } from "upscaled/http";
import type { Result } from "upscaled";
import { UpscaledModule, UpscaledService } from "upscaled-nestjs";
import { UpscaleProcessor } from "upscaled-nestjs/bullmq";
import { UpscaledHealthIndicator } from "upscaled-nestjs/terminus";

export class Upscales extends UpscaleProcessor {}
export async function widthOf(up: Upscaler): Promise<number> {
  const result: Result = await up.upscale({ method: "esrgan", config: { image_path: "in.jpg" } });
  return result.output_size?.width ?? 0;
}
export const all = [HttpUpscaler, JobError];
export const nest = [UpscaledModule, UpscaledService, UpscaledHealthIndicator];
"""
# `moduleResolution: node`, as Nest's own projects have it, is not in TypeScript 7.
TSC = ("typescript@~5.9.3", "@types/node@20")
NEST = ("@nestjs/common@11", "@nestjs/core@11", "@nestjs/bullmq@11", "@nestjs/terminus@11")
PEERS = (*NEST, "bullmq@5", "reflect-metadata", "rxjs")

pytestmark = [pytest.mark.docs, pytest.mark.timeout(2 * TIMEOUT_S)]
needs_npm = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed")


def run(*command: str | Path, cwd: Path, path: Path = Path(sys.executable).parent) -> str:
    """What a command that must succeed prints; `path` is where `upscaled` is."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=os.environ | {"PATH": os.pathsep.join([str(path), os.environ["PATH"]])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    return done.stdout


def built(pattern: str) -> Path:
    """The one file of `dist/` whose name matches."""
    found = list(DIST.glob(pattern))
    assert len(found) == 1, f"`make dist` makes {pattern}; there are {found}"
    return found[0]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty folder outside the checkout, with a picture."""
    shutil.copy(PICTURE, tmp_path / "in.jpg")
    return tmp_path


@pytest.fixture(scope="module")
def node_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which both npm packages are installed."""
    project = tmp_path_factory.mktemp("node")
    shutil.copy(PICTURE, project / "in.jpg")
    (project / "package.json").write_text('{ "private": true }')
    packages = [built("upscaled-0*.tgz"), built("upscaled-nestjs-*.tgz")]
    run(
        "npm", "install", "--no-audit", "--no-fund", *packages, *PEERS, *TSC, "jest@30", cwd=project
    )
    return project


def test_the_wheel_upscales_a_picture_outside_the_checkout(project: Path) -> None:
    run(sys.executable, "-m", "venv", "venv", cwd=project)
    python = project / "venv" / "bin" / "python"
    # Of torch, the build that is here.
    pins = ROOT / "constraints.txt"
    run(python, "-m", "pip", "install", "-q", "-c", pins, built("*.whl"), cwd=project)
    upscaled = python.with_name("upscaled")
    run(upscaled, "upscale", "in.jpg", "-o", "out.png", "--factor", "2", cwd=project)
    assert (project / "out.png").stat().st_size > 0
    run(python, "-c", "import upscaled", cwd=project)
    compiled = "from upscaled_models.esrgan.compiled import library; print(library.available())"
    assert run(python, "-c", compiled, cwd=project).strip() == "True"


def test_the_wheel_is_for_any_python_and_any_linux() -> None:
    name = built("*.whl").name
    assert re.fullmatch(r"upscaled-[\d.]+-py3-none-manylinux\w+(\.manylinux\w+)*\.whl", name), name


def test_without_a_compiler_the_sdist_makes_a_wheel_for_any_system(project: Path) -> None:
    build = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", built("*.tar.gz"))
    run("env", "CC=no-such-compiler", *build, cwd=project)
    assert [wheel.name[-16:] for wheel in project.glob("*.whl")] == ["py3-none-any.whl"]


def test_the_sdist_holds_files_of_the_repository_alone() -> None:
    with tarfile.open(built("*.tar.gz")) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - {"PKG-INFO"} <= set(files())
    assert "adapters/python/upscaled/__init__.py" in names
    assert not [name for name in names if Path(name).suffix in {".jpg", ".png"}]


def test_pypi_shows_the_readme_without_a_relative_link() -> None:
    with zipfile.ZipFile(built("*.whl")) as wheel:
        [name] = [name for name in wheel.namelist() if name.endswith("/METADATA")]
        readme = wheel.read(name).decode()
    assert "](https://github.com/upscaled/upscaled/blob/v" in readme
    assert re.findall(r"\]\((?!https://)[^)]*\)", readme) == []


@needs_npm
def test_the_npm_package_upscales_a_picture_by_require_and_by_import(node_project: Path) -> None:
    require = 'main(require("upscaled").Upscaler).then(console.log);'
    (node_project / "host.cjs").write_text(HOST + require)
    assert run("node", "host.cjs", cwd=node_project).strip() == "512x512"
    imports = 'import { Upscaler } from "upscaled";' + HOST + "console.log(await main(Upscaler));"
    (node_project / "host.mjs").write_text(imports)
    assert run("node", "host.mjs", cwd=node_project).strip() == "512x512"


@needs_npm
def test_the_npm_packages_http_client_is_there_by_require_and_by_import(node_project: Path) -> None:
    (node_project / "http.cjs").write_text('console.log(require("upscaled/http").HttpUpscaler);')
    imports = 'import { HttpUpscaler } from "upscaled/http"; console.log(HttpUpscaler);'
    (node_project / "http.mjs").write_text(imports)
    for name in ("http.cjs", "http.mjs"):
        assert run("node", name, cwd=node_project).strip() == "[class HttpUpscaler]"


@needs_npm
def test_jest_without_a_config_upscales_a_picture(node_project: Path) -> None:
    test = 'test("a picture", async () => { expect(await main(Upscaler)).toBe("512x512"); }, 1e5);'
    require = 'const { Upscaler } = require("upscaled"); require("upscaled-nestjs");'
    (node_project / "upscale.test.js").write_text(require + HOST + test)
    assert "1 passed" in run("npx", "jest", cwd=node_project)


@needs_npm
@pytest.mark.parametrize(
    ("module", "resolution", "kind"),
    [
        ("commonjs", "node", "commonjs"),
        ("esnext", "bundler", "module"),
        ("nodenext", "nodenext", "module"),
        ("nodenext", "nodenext", "commonjs"),
    ],
)
def test_the_npm_packages_types_are_found(
    node_project: Path, module: str, resolution: str, kind: str
) -> None:
    folder = node_project / f"{module}-{resolution}-{kind}"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"type": kind}))
    (folder / "host.ts").write_text(TYPED_HOST)
    options = ["--strict", "--target", "es2022", "--experimentalDecorators", "--skipLibCheck"]
    options += ["--module", module, "--moduleResolution", resolution]
    run("npx", "tsc", *options, "host.ts", cwd=folder)
    if resolution != "bundler":
        run("node", "host.js", cwd=folder)


@needs_go
def test_another_module_is_built_with_the_go_package(project: Path) -> None:
    (project / "main.go").write_text(
        'package main\n\nimport (\n\t"context"\n\t"fmt"\n\n'
        f'\tupscaled "{GO_MODULE}"\n)\n\n'
        "func main() {\n\tclient, err := upscaled.Start(context.Background())\n"
        "\tif err != nil {\n\t\tpanic(err)\n\t}\n\tdefer client.Close()\n"
        '\tconfig := upscaled.EsrganConfig{ImagePath: "in.jpg", OutputPath: "out.png"}\n'
        "\tresult, err := client.Upscale(context.Background(), upscaled.Job{Config: config})\n"
        "\tfmt.Println(result.OutputSize, err)\n}\n"
    )
    run("go", "mod", "init", "example.com/host", cwd=project)
    replacement = f"-replace={GO_MODULE}={ROOT / 'adapters' / 'go'}"
    run("go", "mod", "edit", f"-require={GO_MODULE}@v0.1.0", replacement, cwd=project)
    run("go", "vet", ".", cwd=project)
    assert "{1024 1024} <nil>" in run("go", "run", ".", cwd=project)
