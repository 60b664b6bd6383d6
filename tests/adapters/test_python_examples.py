"""The examples for Python hosts, with a daemon that repeats pixels in the place of the real one."""

from __future__ import annotations

import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

import repeater

EXAMPLES = Path(__file__).parents[2] / "examples" / "python"


@pytest.fixture(autouse=True)
def _repeating_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upscaled.client.default_command", lambda: repeater.COMMAND)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture() -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (5, 3), "teal").save(file, "JPEG")
    file.seek(0)
    file.name = "photo.jpg"
    return file


def size_of(data: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(data)) as image:
        return image.size


def test_the_script_upscales_a_folder_and_names_what_failed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (source / name).write_bytes(picture().getvalue())
    (source / "broken.png").write_text("no picture")
    assert example("folder").main(source, target) == 1
    said = capsys.readouterr()
    assert sorted(said.out.splitlines()) == ["a.jpg: 10x6", "b.jpg: 10x6"]
    assert said.err.startswith("broken.png: ")
    assert sorted(path.name for path in target.iterdir()) == ["a.png", "b.png"]


def test_the_fastapi_app_returns_an_upload_larger() -> None:
    from fastapi.testclient import TestClient

    with TestClient(example("fastapi_app").app) as client:
        answer = client.post("/upscale?factor=3", files={"picture": picture()})
        assert (answer.status_code, size_of(answer.content)) == (200, (15, 9))
        answer = client.post("/upscale", files={"picture": io.BytesIO(b"no picture")})
        assert answer.status_code == 422
        assert answer.json()["detail"] in ("input_unreadable", "unsupported_format")


def test_the_django_view_returns_an_upload_larger() -> None:
    module = example("django_app")
    from django.test import Client

    client = Client()
    try:
        answer = client.post("/upscale?factor=3", {"picture": picture()})
        assert (answer.status_code, size_of(answer.content)) == (200, (15, 9))
        broken = io.BytesIO(b"no picture")
        broken.name = "photo.jpg"
        assert client.post("/upscale", {"picture": broken}).status_code == 422
        assert client.post("/upscale?factor=x", {"picture": picture()}).status_code == 422
        assert client.post("/upscale").status_code == 400
        assert client.get("/upscale").status_code == 405
    finally:
        module.up.close()


def test_the_notebooks_last_cell_shows_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text("utf-8"))
    first, last = ("".join(cell["source"]) for cell in notebook["cells"])
    names: dict[str, Any] = {}
    exec(first, names)
    try:
        # As a kernel does it: the value of the last expression is shown.
        shown = eval(last.partition("\n")[2], names)._repr_mimebundle_()
    finally:
        names["up"].close()
    assert set(shown) == {"text/plain", "image/png"}
