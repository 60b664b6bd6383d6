"""Weights files: what is taken, what is refused, and that none of them runs code."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tiny_networks import compact, random_picture, rrdb, save, weights
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.errors import ErrorCode, JobError


def refused(path: Path) -> JobError:
    with pytest.raises(JobError) as caught:
        load_descriptor(path)
    assert path.name in caught.value.message
    return caught.value


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_published_file_gives_the_network_that_was_saved(tmp_path: Path, suffix: str) -> None:
    model = compact(scale=2)
    descriptor = load_descriptor(save(model, tmp_path / f"tiny{suffix}"))
    assert (descriptor.architecture.id, descriptor.scale) == ("Compact", 2)
    picture = random_picture(20, 20)
    with torch.inference_mode():
        assert torch.equal(descriptor.model(picture), model(picture))


def test_a_file_of_the_oldest_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save(weights(rrdb()), path, _use_new_zipfile_serialization=False)
    assert load_descriptor(path).architecture.id == "ESRGAN"


def test_weights_in_half_precision_are_loaded_in_full(tmp_path: Path) -> None:
    path = save(compact().half(), tmp_path / "half.safetensors")
    assert load_descriptor(path).dtype == torch.float32


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.pth").code is ErrorCode.MODEL_NOT_FOUND
    assert refused(tmp_path / "none.safetensors").code is ErrorCode.MODEL_NOT_FOUND


class Trap:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_would_run_code_is_unsafe_and_does_not_run(
    tmp_path: Path, new_format: bool
) -> None:
    path, mark = tmp_path / "trap.pth", tmp_path / "ran"
    content = {"params": weights(compact()), "extra": Trap(mark)}
    torch.save(content, path, _use_new_zipfile_serialization=new_format)
    assert refused(path).code is ErrorCode.MODEL_UNSAFE
    assert not mark.exists()


def test_a_bare_pickle_that_would_run_code_does_not_run(tmp_path: Path) -> None:
    path, mark = tmp_path / "trap.pth", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Trap(mark)))
    assert refused(path).code in {ErrorCode.MODEL_UNSAFE, ErrorCode.MODEL_CORRUPT}
    assert not mark.exists()


def test_a_whole_pickled_module_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(compact(), path)
    assert refused(path).code is ErrorCode.MODEL_UNSAFE


@pytest.mark.filterwarnings("ignore")  # torch has several for such archives
def test_a_script_archive_is_unsafe(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 3)), path)
    assert refused(path).code is ErrorCode.MODEL_UNSAFE


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 1000, b"<html>404</html>", b"PK\x03\x04" + b"x" * 500, b"\x80\x02."],
    ids=["empty", "zeros", "a page", "a broken zip", "an empty pickle"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".pt", ".ckpt"])
def test_a_file_that_is_something_else_is_corrupt(
    tmp_path: Path, content: bytes, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert refused(path).code is ErrorCode.MODEL_CORRUPT


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_corrupt(tmp_path: Path, suffix: str, share: float) -> None:
    path = save(compact(), tmp_path / f"model{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert refused(path).code is ErrorCode.MODEL_CORRUPT


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_altered_file_loads_or_is_refused(
    tmp_path: Path, suffix: str, data: st.DataObject
) -> None:
    path = save(compact(4, 1), tmp_path / f"model{suffix}")
    content = bytearray(path.read_bytes())
    # Half of the changes go where the structure is.
    head = st.integers(0, min(1500, len(content)) - 1)
    for position in data.draw(st.lists(head | st.integers(0, len(content) - 1), min_size=1)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(JobError):
        load_descriptor(path)


def test_an_unknown_architecture_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"transformer.weight": torch.zeros(3)}, path)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "architecture" in error.message


def test_weights_of_the_wrong_shape_are_corrupt(tmp_path: Path) -> None:
    tensors = weights(compact())
    tensors["body.2.weight"] = tensors["body.2.weight"][:, :5].contiguous()
    path = tmp_path / "shape.safetensors"
    safetensors.torch.save_file(tensors, path)
    assert refused(path).code is ErrorCode.MODEL_CORRUPT


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_corrupt(tmp_path: Path, value: float) -> None:
    tensors = weights(compact())
    tensors["body.2.weight"][0, 0, 0, 0] = value
    path = tmp_path / "nan.safetensors"
    safetensors.torch.save_file(tensors, path)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "finite" in error.message


def mosr_of_the_same_size() -> nn.Module:
    """Of these spandrel says that they upscale, too."""
    from spandrel.architectures.MoSR import MoSR

    model: nn.Module = MoSR(n_block=1, dim=8, upscale=1)
    return model


@pytest.mark.parametrize("build", [lambda: compact(scale=1), mosr_of_the_same_size])
def test_a_network_that_does_not_upscale_is_refused(
    tmp_path: Path, build: Callable[[], nn.Module]
) -> None:
    path = save(build(), tmp_path / "denoise.safetensors")
    assert refused(path).code is ErrorCode.INVALID_JOB


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    assert refused(path).code is ErrorCode.INVALID_JOB


def test_a_zip_with_other_files_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "archive.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    assert refused(path).code is ErrorCode.MODEL_CORRUPT
