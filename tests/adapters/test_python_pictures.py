"""Pictures into the Python client and out of it, through a daemon that repeats their pixels."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from PIL import Image, ImageCms

import repeater
from upscaled import (
    AsyncUpscaler,
    Call,
    InputError,
    InvalidJobError,
    OutputError,
    Result,
    Upscaler,
    scratch,
)
from upscaled.request import request_of
from waiting import wait_until

Array = np.ndarray[Any, Any]
TIMEOUT_S = 60.0
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(scope="module")
def shared() -> Iterator[Upscaler]:
    with Upscaler(command=repeater.COMMAND) as up:
        yield up


@pytest.fixture
def up(shared: Upscaler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Upscaler:
    """The daemon, and a folder of the test's own for temporary files."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(scratch, "_folder", tmp_path / "scratch")
    monkeypatch.setattr(scratch, "_folder_pid", os.getpid())
    return shared


def temporary_files(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "scratch").iterdir())


def noise(*shape: int, dtype: str = "uint8") -> Array:
    return np.random.default_rng(1).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def repeated(array: Array) -> Array:
    return array.repeat(2, axis=0).repeat(2, axis=1)


def png(image: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def test_an_input_without_bytes_is_unreadable_as_an_empty_file_is() -> None:
    with pytest.raises(InputError) as raised:
        request_of(b"", bytes, {}, by_file=False)
    assert raised.value.code == "input_unreadable"


@pytest.mark.parametrize(
    "url", ["s3://b/a.png", "gs://b/a.png", "az://a/b/c.png", "https://h/a.png?X-Amz-Signature=1"]
)
def test_a_url_is_an_input_and_an_output(url: str) -> None:
    request = request_of(url, url, {}, by_file=True)
    assert request.job["config"] == {"image_url": url, "output_url": url}


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2), (3, 5, 3), (3, 5, 4)])
def test_an_array_keeps_every_bit_of_every_channel(
    up: Upscaler, tmp_path: Path, shape: tuple[int, ...], dtype: str
) -> None:
    array = noise(*shape, dtype=dtype)
    result = up.upscale(array)
    assert_type(result, Result[Array])
    assert result.image.dtype == array.dtype
    assert np.array_equal(result.image, repeated(array))
    assert result.warnings == []
    assert temporary_files(tmp_path) == []


def test_arrays_of_other_layouts_are_the_same_picture(up: Upscaler) -> None:
    array = noise(6, 4, 3, dtype="uint16")
    for other in (array[::2, ::-1], np.asfortranarray(array), array.astype(">u2"), array[:, :, :1]):
        assert np.array_equal(up.upscale(other).image, repeated(np.squeeze(other)))


def test_an_array_of_many_strips_is_read_whole(up: Upscaler) -> None:
    array = noise(300, 700, 3)
    assert np.array_equal(up.upscale(array).image, repeated(array))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "CMYK", "HSV"])
def test_a_pillow_image_keeps_its_alpha_profile_and_dpi(up: Upscaler, mode: str) -> None:
    if mode in ("I;16", "I"):
        image = Image.fromarray(noise(3, 5, dtype="uint16")).convert(mode)
    else:
        image = Image.fromarray(noise(3, 5, 4)).convert(mode)
    image.info["dpi"] = (300, 300)
    if mode in ("RGB", "RGBA"):
        image.info["icc_profile"] = PROFILE
    result = up.upscale(image)
    assert_type(result, Result[Image.Image])
    kept = {
        "L": "L",
        "LA": "LA",
        "RGBA": "RGBA",
        "I;16": "I;16",
        "I": "I;16",
        "1": "L",
        "P": "RGBA",
    }
    assert result.image.mode == kept.get(mode, "RGB")
    assert round(result.image.info["dpi"][0]) == 300
    if mode not in ("CMYK", "HSV"):  # their numbers change
        assert result.image.info.get("icc_profile") == image.info.get("icc_profile")
        wanted = image.convert(result.image.mode).resize((10, 6), Image.Resampling.NEAREST)
        assert result.image.tobytes() == wanted.tobytes()


def test_a_palettes_transparency_and_a_phones_orientation_are_kept(up: Upscaler) -> None:
    palette = Image.fromarray(noise(3, 5, 3)).convert("P")
    palette.info["transparency"] = 0
    assert up.upscale(palette).image.mode == "RGBA"
    turned = Image.fromarray(noise(3, 5, 3))
    turned.getexif()[274] = 6  # its top is at the right
    assert up.upscale(turned).image.size == (6, 10)


def test_every_input_goes_to_every_output(up: Upscaler, tmp_path: Path) -> None:
    image = Image.fromarray(noise(3, 5, 3))
    path = tmp_path / "in.png"
    path.write_bytes(png(image))
    wanted = repeated(np.asarray(image))
    inputs: list[Any] = [path, str(path), png(image), bytearray(png(image)), image]
    for given in (*inputs, np.asarray(image), path.open("rb")):
        array = up.submit(given, np.ndarray).result(TIMEOUT_S).image
        assert np.array_equal(array, wanted)
        if isinstance(given, io.IOBase):
            given.close()
    to_path = up.upscale(image, tmp_path / "out.webp", quality=100)
    assert_type(to_path, Result[None])
    assert to_path.output_path == str(tmp_path / "out.webp")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.webp")), wanted)
    assert_type(up.upscale(path), Result[None])
    assert Path(up.upscale(path).output_path or "").parent == tmp_path
    to_bytes = up.upscale(path, bytes, output_format="jpeg", factor=3)
    assert_type(to_bytes, Result[bytes])
    assert Image.open(io.BytesIO(to_bytes.image)).size == (15, 9)
    assert to_bytes.output_path is None
    assert_type(up.upscale(path, Image.Image), Result[Image.Image])
    with path.open("rb") as file:
        assert_type(up.upscale(file), Result[bytes])
    assert temporary_files(tmp_path) == []


def test_no_temporary_file_is_left_by_a_job_that_fails_or_whose_result_is_not_read(
    up: Upscaler, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as failed:
        up.upscale(b"no picture", bytes)
    assert failed.value.code == "input_unreadable" or failed.value.code == "unsupported_format"
    with pytest.raises(OutputError):
        up.upscale(png(Image.new("L", (4, 4))), "/no/such/folder/out.png")
    call = up.submit(noise(3, 5))
    call.exception(TIMEOUT_S)
    del call, failed

    def is_empty() -> bool:
        gc.collect()
        return temporary_files(tmp_path) == []

    wait_until(is_empty, "the end of the temporary files")


@pytest.mark.parametrize("by_file", [True, False])
def test_without_temporary_files_pictures_go_through_the_pipe(
    monkeypatch: pytest.MonkeyPatch, by_file: bool
) -> None:
    def refuse(**_: object) -> str:
        raise PermissionError("a read-only disk")

    monkeypatch.setattr(scratch, "_folder", None)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    array = noise(3, 5, 4, dtype="uint16")
    sent: list[str] = []
    with Upscaler(
        command=repeater.COMMAND, by_file=by_file, on_message=lambda m: sent.append(json.dumps(m))
    ) as up:
        assert np.array_equal(up.upscale(array).image, repeated(array))
        assert up.upscale(Image.new("LA", (5, 3))).image.size == (10, 6)
        data = png(Image.new("L", (5, 3)))
        assert up.upscale(io.BytesIO(data)).image.startswith(b"\x89PNG")
    assert sum("output_base64" in line for line in sent) == 3


def test_what_is_no_picture_is_refused_with_a_sentence(up: Upscaler, tmp_path: Path) -> None:
    for bad, sentence in (
        (np.zeros((3, 5)), r"float64.*astype\('uint16'\)"),
        (np.zeros((3, 5, 7), "uint8"), r"shape \(3, 5, 7\)"),
        (Image.new("F", (3, 3)), "mode F"),
    ):
        with pytest.raises(InputError, match=sentence):
            up.upscale(bad)
    anything: Any = up
    for wrong in (object(), None, 5):
        with pytest.raises(TypeError, match="is no picture"):
            anything.upscale(wrong)
    for wrong in (Image, dict, 5):
        with pytest.raises(TypeError, match="is no output"):
            anything.upscale("a.png", wrong)
    with pytest.raises(TypeError, match="factor and upscale_factor"):
        up.upscale("a.png", factor=2, upscale_factor=2)
    with pytest.raises(TypeError, match="output_format"):
        up.upscale(noise(3, 5), output_format="png")
    with pytest.raises(InvalidJobError):
        up.upscale("a\ud83d.png")
    assert temporary_files(tmp_path) == []


def test_a_task_upscales_what_is_in_memory(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncUpscaler(command=repeater.COMMAND) as up:
            array, image = noise(3, 5), Image.new("RGB", (5, 3))
            first, second = await asyncio.gather(up.upscale(array), up.upscale(image))
            assert_type(first, Result[Array])
            assert np.array_equal(first.image, repeated(array))
            assert second.image.size == (10, 6)
            with pytest.raises(InputError):
                await up.upscale(Image.new("F", (3, 3)))
            call = up.submit(array, tmp_path / "out.png")
            assert [progress async for progress in call] == []
            assert (await call).output_path == str(tmp_path / "out.png")

    asyncio.run(run())


def test_a_task_that_is_cancelled_while_its_picture_is_read_leaves_no_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled: list[str] = []
    cancel = Call.cancel

    def note(call: Call[Any]) -> bool:
        cancelled.append(call.job_id)
        return cancel(call)

    monkeypatch.setattr(Call, "cancel", note)
    reading, go_on = threading.Event(), threading.Event()

    class Slow(io.BytesIO):
        def read(self, *given: Any) -> bytes:
            reading.set()
            assert go_on.wait(TIMEOUT_S)
            return super().read(*given)

    async def run() -> None:
        async with AsyncUpscaler(command=repeater.COMMAND) as up:
            task = asyncio.create_task(up.upscale(Slow(png(Image.new("L", (5, 3))))))
            await asyncio.to_thread(reading.wait, TIMEOUT_S)
            task.cancel()
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert up._client.is_idle
            assert len(cancelled) == 1

    asyncio.run(run())


def test_a_result_shows_its_picture_in_a_notebook(up: Upscaler, tmp_path: Path) -> None:
    image = Image.new("RGB", (5, 3), "teal")
    shown: dict[str, tuple[Result[Any], str]] = {
        "file": (up.upscale(image, tmp_path / "out.png"), "image/png"),
        "jpeg": (up.upscale(image, bytes, output_format="jpeg"), "image/jpeg"),
        "webp": (up.upscale(image, bytes, output_format="webp"), "image/webp"),
        "tiff": (up.upscale(image, bytes, output_format="tiff"), "image/png"),
        "image": (up.upscale(image), "image/png"),
        "array": (up.upscale(noise(3, 5, 3, dtype="uint16")), "image/png"),
    }
    for name, (result, kind) in shown.items():
        bundle = result._repr_mimebundle_()
        assert set(bundle) == {"text/plain", kind}, name
    (tmp_path / "out.png").unlink()
    assert set(shown["file"][0]._repr_mimebundle_()) == {"text/plain"}


def test_pillow_numpy_and_asyncio_are_imported_only_if_they_are_used() -> None:
    names = "{'PIL', 'numpy', 'asyncio'}"
    code = f"import sys, upscaled; upscaled.Upscaler(); print(*({names} & {{*sys.modules}}))"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.stdout == "\n"
