"""Inputs that cannot be upscaled: one clear error each from a real daemon, which then goes on."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims any size, and has almost no data."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + data + png_chunk(b"IEND", b"")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.png"
    Image.effect_mandelbrot((40, 30), (-2, -1, 1, 1), 50).convert("RGB").save(path)
    return path


def end_of(daemon: Daemon, job_id: str, **config: object) -> dict[str, object]:
    daemon.job(job_id, method="esrgan", **config)
    return daemon.wait_terminal(job_id)


@pytest.mark.parametrize("module", ["upscaled_worker", "upscaled_supervisor"])
def test_each_bad_input_gives_one_error_and_the_next_job_works(
    start_daemon: StartDaemon, tmp_path: Path, good: Path, module: str
) -> None:
    whole = good.read_bytes()
    files = {
        "empty.png": b"",
        "text.png": b"this is no picture\n" * 10,
        "half.png": whole[: len(whole) // 2],
        "header.png": whole[:20],
        "bomb.png": png_header(100_000, 100_000),
        "flipped.png": whole[:60] + bytes([whole[60] ^ 0xFF]) + whole[61:],
        "vector.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    locked = tmp_path / "file-not-folder"
    locked.write_text("")
    cases = {
        "missing": ({"image_path": str(tmp_path / "nowhere.png")}, "input_not_found"),
        "folder": ({"image_path": str(tmp_path)}, "input_not_found"),
        "empty": ({"image_path": str(tmp_path / "empty.png")}, "input_unreadable"),
        "text": ({"image_path": str(tmp_path / "text.png")}, "unsupported_format"),
        "half": ({"image_path": str(tmp_path / "half.png")}, "input_unreadable"),
        "header": ({"image_path": str(tmp_path / "header.png")}, "input_unreadable"),
        "flipped": ({"image_path": str(tmp_path / "flipped.png")}, "input_unreadable"),
        "bomb": ({"image_path": str(tmp_path / "bomb.png")}, "input_too_large"),
        "vector": ({"image_path": str(tmp_path / "vector.svg")}, "unsupported_format"),
        "base64": ({"image_base64": "bm90IGFuIGltYWdl"}, "unsupported_format"),
        "unwritable": (
            {"image_path": str(good), "output_path": str(locked / "out.png")},
            "output_unwritable",
        ),
        "suffix": (
            {"image_path": str(good), "output_path": str(tmp_path / "out.bmp")},
            "unsupported_format",
        ),
        "itself": ({"image_path": str(good), "output_path": str(good)}, "invalid_job"),
        "no model": ({"image_path": str(good), "model": "no-such-model"}, "model_not_found"),
        "private": ({"image_url": "http://127.0.0.1:1/x.png"}, "path_not_allowed"),
    }
    before = sorted(tmp_path.iterdir())
    daemon = start_daemon(module, "--methods", "esrgan")
    for name, (config, code) in cases.items():
        error = end_of(daemon, name, **config)
        assert (name, error.get("code")) == (name, code), error
        sentence = str(error["error"])
        assert sentence, name
        assert "\n" not in sentence, sentence
    assert sorted(tmp_path.iterdir()) == before
    result = end_of(daemon, "good", image_path=str(good))
    assert result["type"] == "result"
    with Image.open(str(result["output_path"])) as output:
        assert output.size == (160, 120)
    assert daemon.finish() in (0, 1)
    assert len(daemon.terminals()) == len(cases) + 1


def test_a_pickle_that_runs_code_is_refused(
    start_daemon: StartDaemon, tmp_path: Path, good: Path
) -> None:
    import torch

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            import os

            return os.system, (f"touch {tmp_path / 'attacked'}",)

    weights = tmp_path / "weights.pth"
    torch.save({"params": {"body.0.weight": Attack()}}, weights)
    daemon = start_daemon("upscaled_worker", "--methods", "esrgan")
    error = end_of(daemon, "a", image_path=str(good), model=str(weights))
    assert error["code"] == "model_unsafe"
    assert not (tmp_path / "attacked").exists()


def test_paths_and_hosts_that_are_not_allowed_are_refused(
    start_daemon: StartDaemon, tmp_path: Path, good: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link.png").symlink_to(good)
    picture = inside / "picture.png"
    picture.write_bytes(good.read_bytes())
    allowed = ["--allow-root", str(inside), "--allow-host", "127.0.0.1:1"]
    daemon = start_daemon("upscaled_supervisor", "--methods", "esrgan", *allowed)
    for name, config in {
        "outside": {"image_path": str(good)},
        "dots": {"image_path": str(inside / ".." / "good.png")},
        "link": {"image_path": str(inside / "link.png")},
        "output": {"image_path": str(picture), "output_path": str(tmp_path / "out.png")},
        "weights": {"image_path": str(picture), "model": str(tmp_path / "weights.pth")},
        "port": {"image_url": "http://127.0.0.1:2/x.png"},
    }.items():
        assert (name, end_of(daemon, name, **config)["code"]) == (name, "path_not_allowed")
    # Nothing listens there.
    listed = end_of(daemon, "listed", image_url="http://127.0.0.1:1/x.png")
    assert listed["code"] == "input_unreadable"
    assert end_of(daemon, "good", image_path=str(picture))["type"] == "result"
