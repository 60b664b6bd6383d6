"""Weights files: what is taken, what is refused, and that none of them runs code."""

from __future__ import annotations

import argparse
import datetime
import gzip
import os
import pickle
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tiny_networks import compact, random_picture, rrdb, save, weights
from upscaled_models.esrgan import morearchitectures
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


def test_no_random_weights_are_made_only_to_be_replaced(tmp_path: Path) -> None:
    path = save(rrdb(), tmp_path / "rrdb.safetensors")
    before = torch.get_rng_state()
    load_descriptor(path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.pth").code is ErrorCode.MODEL_NOT_FOUND
    assert refused(tmp_path / "none.safetensors").code is ErrorCode.MODEL_NOT_FOUND


class Trap:
    """Creates a file when it is unpickled."""

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
    # Half of the changes hit the structure of the file.
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


@pytest.mark.parametrize("share", [0.0, 0.5, 0.8])
def test_a_file_that_holds_zeros_from_some_byte_on_is_corrupt(tmp_path: Path, share: float) -> None:
    path = save(rrdb(), tmp_path / "cut.safetensors")
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    kept = start + int((len(data) - start) * share)
    path.write_bytes(data[:kept] + bytes(len(data) - kept))
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "whole layers hold only zeros" in error.message


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_corrupt(tmp_path: Path, value: float) -> None:
    tensors = weights(compact())
    tensors["body.2.weight"][0, 0, 0, 0] = value
    path = tmp_path / "nan.safetensors"
    safetensors.torch.save_file(tensors, path)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "finite" in error.message


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_weights_that_are_no_floats_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = weights(compact())
    tensors["body.2.weight"] = (tensors["body.2.weight"] * 100).to(dtype)
    path = tmp_path / "quantized.safetensors"
    safetensors.torch.save_file(tensors, path)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "whole numbers" in error.message


def mosr_of_the_same_size() -> nn.Module:
    """Of these spandrel says that they upscale, too."""
    from spandrel.architectures.MoSR import MoSR

    model: nn.Module = MoSR(n_block=1, dim=8, upscale=1)
    return model


@pytest.mark.parametrize("build", [lambda: compact(scale=1), mosr_of_the_same_size])
def test_a_network_of_scale_1_is_read(tmp_path: Path, build: Callable[[], nn.Module]) -> None:
    path = save(build(), tmp_path / "denoise.safetensors")
    assert load_descriptor(path).scale == 1


def test_a_network_for_faces_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = load_descriptor(save(compact(scale=1), tmp_path / "faces.safetensors"))
    descriptor._purpose = "FaceSR"
    monkeypatch.setattr(morearchitectures, "load", lambda _: descriptor)
    error = refused(tmp_path / "faces.safetensors")
    assert error.code is ErrorCode.INVALID_JOB
    assert "is for faces" in error.message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.gguf", b"GGUF", "a GGUF file"),
        ("model.pth", b"GGUF" + bytes(100), "a GGUF file"),
        ("model.onnx", b"\x08\x07\x12\x07pytorch", "an ONNX model"),
        ("model.param", b"7767517\n75 83\n", "an ncnn model"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
        ("model.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("model.xml", b'<?xml version="1.0"?>\n<net name="x">', "an OpenVINO model"),
        ("model.bin", bytes(100), "no weights file"),
    ],
)
def test_weights_for_other_programs_are_named(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    error = refused(path)
    assert error.code is ErrorCode.INVALID_JOB
    assert words in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Sign in</html>", "an HTML page"),
        (b'{"error":"gated"}', "JSON"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a picture (png)"),
        (gzip.compress(bytes(1000), mtime=0), "a gzip archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100), "a 7-Zip archive: unpack it"),
        (b"Rar!\x1a\x07\1\0" + bytes(100), "a RAR archive: unpack it"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_stands_in_place_of_weights_is_named(
    tmp_path: Path, content: bytes, words: str, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert words in error.message


@pytest.mark.parametrize("name", ["really.pth", "model", "model.bin", "model.ckpt"])
def test_safetensors_of_any_name_are_read(tmp_path: Path, name: str) -> None:
    path = save(compact(), tmp_path / "model.safetensors").rename(tmp_path / name)
    assert load_descriptor(path).architecture.id == "Compact"


@pytest.mark.parametrize("name", ["really.safetensors", "model", "model.bin"])
@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
def test_pickled_weights_of_any_name_are_read(tmp_path: Path, name: str, new_format: bool) -> None:
    path = tmp_path / name
    torch.save(weights(compact()), path, _use_new_zipfile_serialization=new_format)
    assert load_descriptor(path).architecture.id == "Compact"


def test_compressed_weights_are_refused_before_they_fill_the_memory(tmp_path: Path) -> None:
    saved, path = tmp_path / "saved.pth", tmp_path / "bomb.pth"
    torch.save({"body.0.weight": torch.zeros(1000)}, saved)
    with (
        zipfile.ZipFile(saved) as parts,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for part in parts.namelist():
            archive.writestr(part, parts.read(part))
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "compressed" in error.message


@pytest.mark.parametrize("new_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [4, 5])
def test_a_pickle_of_a_newer_protocol_is_named(
    tmp_path: Path, protocol: int, new_format: bool
) -> None:
    path = tmp_path / "newer.pth"
    torch.save(
        weights(compact()),
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.warns(UserWarning, match="pickle protocol"):
        error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "a pickle of protocol 4 or 5" in error.message


def test_an_archive_with_a_model_inside_names_that(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/4x_sharp.pth", b"...")
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert "ZIP archive: unpack it, and give the file 4x_sharp.pth" in error.message


@pytest.mark.parametrize(
    "beside",
    [
        np.float64(31.5),
        np.array([0.4, 0.5]),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
        PurePosixPath("/data"),
        argparse.Namespace(scale=4),
        defaultdict(float, best=1.0),
        deque([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_training_saves_beside_weights_is_no_code(tmp_path: Path, beside: Any) -> None:
    path = tmp_path / "model.pth"
    torch.save({"params": weights(compact()), "beside": beside}, path)
    assert load_descriptor(path).architecture.id == "Compact"


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda named: {"g_ema": named, "iter": 5},
        lambda named: {"net_g": named, "net_d": {"conv.weight": torch.zeros(3)}},
        lambda named: {"params_ema." + name: value for name, value in named.items()},
        lambda named: {"state_dict": {"net_g." + name: value for name, value in named.items()}},
        lambda named: {
            **{"generator." + name: value for name, value in named.items()},
            "discriminator.conv.weight": torch.zeros(3),
        },
    ],
)
def test_the_network_in_a_training_checkpoint_is_found(
    tmp_path: Path, wrapped: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(wrapped(weights(compact())), path)
    assert load_descriptor(path).architecture.id == "Compact"


WEIGHT = torch.zeros(3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"epoch": 1, "iter": 2, "optimizers": [], "schedulers": []}, "a training state"),
        ({"state": {0: {"exp_avg": WEIGHT}}, "param_groups": []}, "a training state"),
        ({"conv0_0.weight": WEIGHT, "linear1.weight": WEIGHT}, "a discriminator"),
        ({"params": {"conv1.weight_orig": WEIGHT, "conv9.weight": WEIGHT}}, "a discriminator"),
        ({"net_d": {"conv.weight": WEIGHT}}, "a discriminator"),
        ({"unet.down.lora_up.weight": WEIGHT}, "a LoRA"),
        ({"model.diffusion_model.input_blocks.0.0.weight": WEIGHT}, "a diffusion model"),
        ({"double_blocks.0.img_attn.qkv.weight": WEIGHT}, '"method": "flux"'),
        ({"text_model.encoder.layers.0.mlp.fc1.weight": WEIGHT}, "a text encoder"),
        ({"layer1.0.conv1.weight": WEIGHT, "fc.weight": WEIGHT}, "a classifier"),
        ({"epoch": 3, "model": {"mystery.weight": WEIGHT}}, "a training checkpoint"),
        ({"params": {"conv.weight": np.zeros(3)}}, "NumPy"),
        ({"mystery.weight": WEIGHT}, "its architecture is not known"),
        ({}, "no weights"),
    ],
)
def test_weights_of_no_upscaling_network_are_named(
    tmp_path: Path, content: dict[str, Any], words: str
) -> None:
    path = tmp_path / "model.pth"
    torch.save(content, path)
    error = refused(path)
    assert error.code is ErrorCode.MODEL_CORRUPT
    assert words in error.message
    assert "fetch the file again" not in error.message


def test_a_dictionary_that_holds_itself_is_refused(tmp_path: Path) -> None:
    path, content = tmp_path / "model.pth", dict[str, Any](epoch=1)
    content["model"] = content
    torch.save(content, path)
    assert refused(path).code is ErrorCode.MODEL_CORRUPT


def test_an_unsafe_pickle_says_what_it_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "trap.pth"
    torch.save({"extra": Trap(tmp_path / "ran")}, path)
    assert "posix.mkdir" in refused(path).message


def test_a_zip_with_other_files_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "archive.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no model")
    assert refused(path).code is ErrorCode.MODEL_CORRUPT


HEADS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x40\0\0\0\0\0\0\0{", b"GGUF", b"<", b"\x08\x07\x12"]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    head=st.sampled_from(HEADS), rest=st.binary(max_size=200), suffix=st.sampled_from(["", ".pth"])
)
def test_any_bytes_are_refused_in_one_sentence(
    tmp_path: Path, head: bytes, rest: bytes, suffix: str
) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(head + rest)
    error = refused(path)
    assert error.code in (ErrorCode.MODEL_CORRUPT, ErrorCode.INVALID_JOB, ErrorCode.MODEL_UNSAFE)
    assert error.message.isprintable()
