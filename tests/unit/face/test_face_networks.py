"""How each architecture is called: its range, its arguments, its precision, its files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tiny_faces import Echo, gfpgan, published_layout, restoreformer
from tiny_networks import CPU, compact, save
from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.loading import load_descriptor, load_face_descriptor
from upscaled_models.face.networks import ARCHITECTURES, FaceNetwork
from upscaled_protocol.errors import ErrorCode, JobError

CROP = np.random.default_rng(5).random((512, 512, 3), np.float32)
CROP[0, 0], CROP[0, 1] = 0, 1


def network(model: nn.Module, name: str, dtype: torch.dtype = torch.float32) -> FaceNetwork:
    descriptor: Any = SimpleNamespace(model=model, architecture=SimpleNamespace(name=name))
    return FaceNetwork(descriptor, CPU, dtype)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_that_returns_its_input_restores_every_face_to_itself(name: str) -> None:
    model = Echo()
    restored = network(model, name).restore(CROP)
    assert np.abs(restored - CROP).max() < 1e-6
    [(given, named)] = model.given
    assert given.shape == (1, 3, 512, 512)
    assert (float(given.min()), float(given.max())) == (-1, 1)
    assert np.allclose(given[0, :, 7, 9], CROP[7, 9] * 2 - 1)
    wanted = {"return_rgb": False, "randomize_noise": False} if name == "GFPGAN" else {}
    assert named == wanted


@pytest.mark.parametrize(("result", "colour"), [(0.5, 0.75), (3.0, 1.0)])
def test_what_a_network_gives_from_minus_one_to_one_becomes_black_to_white(
    result: float, colour: float
) -> None:
    restored = network(gfpgan(result), "GFPGAN").restore(CROP)
    assert np.allclose(restored, colour, atol=1e-6)


@pytest.mark.parametrize("threads", [1, 4])
def test_a_face_is_restored_to_the_same_bits_each_time(threads: int) -> None:
    before = torch.get_num_threads()
    model = network(gfpgan(), "GFPGAN")
    try:
        torch.set_num_threads(threads)
        first = model.restore(CROP)
        assert first.std() > 0.01
        for _ in range(2):
            assert np.array_equal(first, model.restore(CROP))
    finally:
        torch.set_num_threads(before)


class Quantizing(nn.Module):
    """The parts of RestoreFormer that half precision handles apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.norm = nn.GroupNorm(1, 3)
        self.quant_conv = nn.Conv2d(3, 3, 1)
        self.quantize = nn.Identity()
        self.quantize.register_forward_hook(lambda _layer, given, _result: self.keep(given[0]))
        self.seen: list[torch.dtype] = []

    def keep(self, values: Tensor) -> None:
        self.seen.append(values.dtype)

    def forward(self, crop: Tensor) -> tuple[Tensor, None]:
        first = self.first(crop)
        self.keep(first)
        return self.quantize(self.quant_conv(self.norm(first))), None


def test_in_half_precision_a_codebook_is_searched_in_float32() -> None:
    model = Quantizing()
    half = network(model, "RestoreFormer", torch.bfloat16)
    restored = half.restore(CROP)
    assert model.seen == [torch.bfloat16, torch.float32]
    assert restored.dtype == np.float32
    assert half.size_bytes == 2 * 12 + 4 * 6 + 4 * 12


def test_stylegans_weights_stay_in_float32_until_they_are_modulated() -> None:
    model = gfpgan()
    size = network(model, "GFPGAN", torch.bfloat16).size_bytes
    assert model.get_parameter("stylegan_decoder.style_conv1.modulated_conv.weight").dtype == (
        torch.float32
    )
    assert model.get_parameter("conv_body_first.weight").dtype == torch.bfloat16
    assert size < network(gfpgan(), "GFPGAN").size_bytes


def test_a_file_of_the_published_layout_is_loaded(tmp_path: Path) -> None:
    path = save(restoreformer(), tmp_path / "RestoreFormer.pth")
    assert load_face_descriptor(path).architecture.id == "RestoreFormer"


def refusal(path: Path, load: Any) -> JobError:
    with pytest.raises(JobError) as caught:
        load(path)
    return caught.value


def test_each_method_names_the_other_if_it_is_given_its_model(tmp_path: Path) -> None:
    face = refusal(save(restoreformer(), tmp_path / "face.pth"), load_descriptor)
    upscaler = refusal(save(compact(), tmp_path / "compact.pth"), load_face_descriptor)
    assert face.code == upscaler.code == ErrorCode.INVALID_JOB
    assert face.message == 'face.pth (RestoreFormer) is for faces: send it with "method": "face"'
    assert upscaler.message == (
        "compact.pth (RealESRGAN Compact) does not restore faces: "
        "choose GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer"
    )


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            ("toRGB.0.weight", "stylegan_decoder.style_mlp.1.weight", "conv_body_first.0.weight"),
            "it is the first version of GFPGAN, which is not read: choose GFPGANv1.4",
        ),
        (
            ("vqvae.encoder.conv_in.weight",),
            "it is a RestoreFormer as it is trained",
        ),
        (("ecd0.0.0.weight", "generator.style.1.weight"), "it is a GPEN, which is not read"),
        (("module.ClassHead.0.conv1x1.weight",), "it is a face detector, and faces are found"),
        (("out_mask_conv.conv2d.weight",), "it is a network that marks the parts of a face"),
    ],
)
def test_a_file_from_the_same_folder_that_restores_no_faces_is_named(
    tmp_path: Path, names: tuple[str, ...], sentence: str
) -> None:
    path = tmp_path / "model.pth"
    torch.save({"params_ema": {name: torch.zeros(1) for name in names}}, path)
    refused = refusal(path, load_face_descriptor)
    assert refused.code == ErrorCode.MODEL_CORRUPT
    assert sentence in refused.message
    assert "choose " in refused.message


@pytest.mark.parametrize("place", ["params", "params_ema", "g_ema"])
def test_weights_are_found_in_any_place_where_they_are_published(
    tmp_path: Path, place: str
) -> None:
    path = tmp_path / "model.pth"
    torch.save({place: restoreformer().state_dict()}, path)
    assert load_face_descriptor(path).architecture.id == "RestoreFormer"


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "place"),
    [("GFPGAN", "params_ema"), ("RestoreFormer", "params"), ("CodeFormer", "params_ema")],
)
def test_a_file_of_the_published_size_is_loaded(tmp_path: Path, name: str, place: str) -> None:
    if name == "CodeFormer":
        pytest.importorskip("spandrel_extra_arches")
    path = tmp_path / "model.pth"
    # All numbers of a tensor are one in the file, which so has a few kilobytes.
    tensors = published_layout(name).items()
    torch.save({place: {key: torch.zeros(1).expand(size) for key, size in tensors}}, path)
    assert load_face_descriptor(path).architecture.id == name


def test_codeformer_without_its_extra_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = (
        "position_emb",
        "quantize.embedding.weight",
        "ft_layers.0.self_attn.in_proj_weight",
        "idx_pred_layer.1.weight",
        "encoder.blocks.0.weight",
    )
    path = tmp_path / "codeformer.pth"
    torch.save({"params_ema": {name: torch.zeros(1) for name in names}}, path)
    monkeypatch.setattr(morearchitectures, "is_installed", lambda: False)
    refused = refusal(path, load_face_descriptor)
    assert refused.code == ErrorCode.MODEL_CORRUPT
    assert "CodeFormer, whose code is for non-commercial use only" in refused.message
    assert "pip install 'upscaled[more-architectures]'" in refused.message
