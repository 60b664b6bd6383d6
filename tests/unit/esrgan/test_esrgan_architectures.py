"""Architectures, small and with random weights: each is as exact as README.md says."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import upscaled_models.esrgan
from tiny_networks import (
    HAS_BF16,
    compact,
    in_bands,
    network,
    psnr,
    rrdb,
    save,
    smooth_picture,
    weights,
    without_compiled_steps,
)
from torchcalls import TorchCalls
from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.architectures import MAIN_REGISTRY
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.stage import Stage, mirrored
from upscaled_models.esrgan.tile import Tile

README = Path(upscaled_models.esrgan.__file__).with_name("README.md")

# Unequal, and multiples of nothing; large enough for tiles that do not see each other.
HEIGHT, WIDTH = 150, 171


def build(
    architecture: str, name: str | None = None, library: str = "spandrel", **sizes: Any
) -> Callable[[], nn.Module]:
    def construct() -> nn.Module:
        module = importlib.import_module(f"{library}.architectures.{architecture}")
        torch.manual_seed(0)
        model: nn.Module = getattr(module, name or architecture)(**sizes)
        for name_of, weight in model.named_parameters():
            if name_of.endswith(("beta", "gamma")):  # NAFNet's: with zeros it is the identity
                nn.init.ones_(weight)
        return model.eval()

    return construct


def windowed(architecture: str, **sizes: Any) -> Callable[[], nn.Module]:
    """A transformer of one layer, whose windows are 8 pixels wide."""
    layer: dict[str, Any] = {
        "embed_dim": 12,
        "depths": [2],
        "num_heads": [2],
        "window_size": 8,
        "img_size": 32,
        "upscale": 2,  # their layers behind the windows cannot be made small
        "upsampler": "pixelshuffle",
    }
    return build(architecture, **layer | sizes)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "Compact": compact,
    "ESRGAN": rrdb,
    "ESRGAN+": build("ESRGAN", num_filters=8, num_blocks=1, scale=4, plus=True),
    "ESRGAN on unshuffled pixels": build(
        "ESRGAN", in_nc=12, num_filters=8, num_blocks=1, shuffle_factor=2
    ),
    "SPAN": build("SPAN", num_in_ch=3, num_out_ch=3, feature_channels=8, upscale=4),
    "MoSR": build("MoSR", n_block=2, dim=8),
    "SwiftSRGAN": build("SwiftSRGAN", num_channels=8, num_blocks=2),
    "PLKSR": build("PLKSR", dim=8, n_blocks=2, kernel_size=9),
    "RealPLKSR": build("PLKSR", "RealPLKSR", dim=16, n_blocks=2, kernel_size=9),
    "SAFMN": build("SAFMN", dim=8, n_blocks=2),
    "SwinIR": windowed("SwinIR", upsampler="pixelshuffledirect"),
    "Swin2SR": windowed("Swin2SR"),
    "HAT": windowed("HAT", squeeze_factor=4),
    "DRCT": windowed("DRCT", gc=4),
    "ATD": windowed("ATD", category_size=16, num_tokens=8),
    "DAT": build(
        "DAT", embed_dim=16, depth=[2], num_heads=[2], split_size=[8, 16], upscale=2, img_size=64
    ),
    "RGT": build("RGT", embed_dim=12, depth=[2, 2], num_heads=[2, 2], upscale=2, img_size=32),
    "OmniSR": build("OmniSR", num_feat=16, res_num=1),
    "RCAN": build("RCAN", n_resgroups=1, n_resblocks=2, n_feats=8, reduction=4),
    "MoESR": build("MoESR", n_blocks=1, n_block=1, dim=8, upsample_dim=8),
    "SeemoRe": build("SeemoRe", num_experts=3, num_layers=1, embedding_dim=8),
    "CRAFT": build("CRAFT", embed_dim=12, depths=[2], num_heads=[2]),
    "DCTLSA": build("DCTLSA", nf=10),
    "DITN": build("DITN", dim=12, ITL_blocks=1, SAL_blocks=1, UFONE_blocks=1),
    "FDAT": build("FDAT", embed_dim=12, num_groups=1, depth_per_group=1, num_heads=2),
    "RealCUGAN": build("RealCUGAN", "UpCunet2x"),
    "DnCNN": build("DnCNN", in_nc=3, out_nc=3, nc=8, nb=9, act_mode="R"),
    "DRUNet": build("DRUNet", in_nc=4, out_nc=3, nc=[8, 8, 16, 16], nb=2),
    "NAFNet": build("NAFNet", width=8, middle_blk_num=1, enc_blk_nums=[1], dec_blk_nums=[1]),
    "RetinexFormer": build("RetinexFormer", n_feat=8, stage=1, num_blocks=[1, 1, 1]),
}
if morearchitectures.is_installed():
    BUILDERS["SRFormer"] = windowed(
        "SRFormer", library="spandrel_extra_arches", upsampler="pixelshuffledirect"
    )
# Beside windows it looks at the whole picture: what random weights make of that is no measure.
LOOKS_EVERYWHERE = {"RealPLKSR", "OmniSR", "ATD", "DCTLSA", "CRAFT"}

ATTENTIVE = {
    *("SwinIR", "Swin2SR", "HAT", "DRCT", "ATD", "DAT", "RGT", "CRAFT", "FDAT", "SRFormer"),
}


def table() -> dict[str, tuple[str, str]]:
    """How README.md says that each architecture runs, and how tiles compare with the whole."""
    rows = re.findall(
        r"^\| ([\w+ ]+?) +\| (rows|tiles) +\| (exact|blended) +\|", README.read_text(), re.MULTILINE
    )
    return {name: (runs, tiles) for name, runs, tiles in rows}


def test_the_table_names_every_architecture_that_is_run_here() -> None:
    assert set(table()) == {*BUILDERS, "SRFormer"}


@pytest.mark.filterwarnings("ignore")  # the architectures' own
@pytest.mark.parametrize("name", list(BUILDERS))
def test_an_architecture_runs_as_the_table_says(name: str) -> None:
    model = BUILDERS[name]()
    small = network(model)
    assert ("rows" if small.by_rows else "tiles", "exact" if small.exact else "blended") == table()[
        name
    ]
    picture = as_from_a_file(HEIGHT, WIDTH)
    with torch.inference_mode():
        whole = morearchitectures.load(weights(model)).eval()(picture.clone())
    tiled = in_tiles(small, picture, 96).clamp(0, 1)
    assert tiled.shape == whole.shape == (1, 3, HEIGHT * small.scale, WIDTH * small.scale)
    if small.exact:
        # What is left is rounding: kernels of the whole frame are not those of its tiles.
        assert (tiled - whole).abs().max() <= 2e-5 * max(1.0, float(whole.abs().max()))
    else:
        assert psnr(tiled, whole) >= (40 if name in LOOKS_EVERYWHERE else 60)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("window", [7, 12])
def test_windows_that_are_no_power_of_two_are_exact(window: int) -> None:
    sizes = {"window_size": window, "img_size": 4 * window, "upsampler": "pixelshuffledirect"}
    model = windowed("SwinIR", **sizes)()
    picture = as_from_a_file(HEIGHT, WIDTH)
    with torch.inference_mode():
        whole = morearchitectures.load(weights(model)).eval()(picture.clone())
    tiled = in_tiles(network(model), picture, 84).clamp(0, 1)
    assert (tiled - whole).abs().max() <= 2e-5


@pytest.mark.filterwarnings("ignore")
def test_swin2sr_for_compressed_pictures_gets_whole_windows(tmp_path: Path) -> None:
    model = windowed("Swin2SR", upsampler="pixelshuffle_aux", upscale=4)()
    descriptor = load_descriptor(save(model, tmp_path / "aux.pth"))
    picture = smooth_picture(29, 35)
    with torch.inference_mode():
        whole = model(mirrored(picture, 5, 3))[..., : 4 * 29, : 4 * 35].clamp(0, 1)
        assert torch.equal(descriptor(picture), whole)


@pytest.mark.skipif(not HAS_BF16, reason="oneDNN has no bf16 on this machine")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(BUILDERS))
def test_an_architecture_runs_in_half_precision(name: str) -> None:
    picture = as_from_a_file(70, 90)
    full, half = (
        # Tiles of more than one size: some architectures keep masks for one, and make the others.
        in_tiles(network(BUILDERS[name](), dtype), picture, 64).float()
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.shape == full.shape
    # bf16 has steps of 1/256: a few of them, of what the random weights make of the picture.
    assert (half - full).square().mean().sqrt() <= 0.05 * full.std()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(ATTENTIVE & set(BUILDERS)))
def test_the_attention_of_windows_is_computed_in_one_step(name: str) -> None:
    # The compiled step takes the same attention, but is no operation of torch.
    with without_compiled_steps(), torch.inference_mode(), TorchCalls() as calls:
        network(BUILDERS[name]()).open(64, 64).feed(as_from_a_file(64, 64))
    assert "scaled_dot_product_attention" in calls.names
    # Some have attention of channels or to tokens, too, which is small.
    assert ("softmax" in calls.names) == (name in {"ATD", "CRAFT", "DAT", "FDAT", "RGT"})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["SwinIR", "Swin2SR", "DRCT"])
def test_a_mask_is_made_once_for_all_layers(name: str) -> None:
    counts = []
    for depth in (2, 4):
        deep = network(windowed(name, depths=[depth])())
        with torch.inference_mode(), TorchCalls() as calls:
            deep.open(64, 64).feed(as_from_a_file(64, 64))
        counts.append(calls.names["masked_fill"])
    assert counts[0] == counts[1] > 0


def test_an_architecture_may_write_into_what_it_is_given() -> None:
    model = BUILDERS["RCAN"]()
    picture = as_from_a_file(200, 60)
    with torch.inference_mode():
        given = picture.clone()
        whole = morearchitectures.load(weights(model)).eval()(given)
    assert not torch.equal(given, picture)
    assert psnr(in_tiles(network(model), picture, 128), whole) >= 50


class OnProcessor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the results that are on the processor."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.count += isinstance(result, torch.Tensor) and result.device.type == "cpu"
        return result


@pytest.mark.filterwarnings("ignore")
def test_masks_are_made_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    descriptor = morearchitectures.load(weights(BUILDERS["SwinIR"]()))
    elsewhere = torch.device("meta")
    stream = Network(descriptor, elsewhere, torch.float32).open(48, 48)
    picture = torch.empty(1, 3, 48, 40, device=elsewhere)
    with torch.inference_mode(), OnProcessor() as on_processor:  # type: ignore[no-untyped-call]
        stream.feed(picture)
    assert not on_processor.count


def as_from_a_file(height: int, width: int) -> torch.Tensor:
    """A picture with its channels side by side, as they come from a file."""
    return smooth_picture(height, width).to(memory_format=torch.channels_last)


def in_tiles(small: Network, picture: torch.Tensor, side: int) -> torch.Tensor:
    height, width = picture.shape[2:]
    stage = Stage(small, width, height, Tile(side, side), Host())
    return torch.cat(list(stage.run(in_bands(picture, 50))), 2)


class Host:
    def tile_done(self) -> None: ...

    def make_room(self) -> None:
        raise AssertionError("memory is enough")

    def full_precision(self, failed: Network) -> Any:
        raise AssertionError("this is full precision")


def test_the_newer_layout_of_esrgan_is_the_same_network() -> None:
    """Real-ESRGAN's names for the layers, in place of ESRGAN's own."""
    model = rrdb(blocks=2)
    newer = {}
    for old, value in weights(model).items():
        name = old
        for pattern, replacement in (
            (r"model\.1\.sub\.(\d)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
            (r"model\.1\.sub\.2\.", "conv_body."),
            (r"model\.0\.", "conv_first."),
            (r"model\.3\.", "conv_up1."),
            (r"model\.6\.", "conv_up2."),
            (r"model\.8\.", "conv_hr."),
            (r"model\.10\.", "conv_last."),
        ):
            name = re.sub(f"^{pattern}", replacement, name)
        newer[name] = value
    assert not any(name.startswith("model.") for name in newer)
    picture = smooth_picture(20, 30)
    with torch.inference_mode():
        assert torch.equal(MAIN_REGISTRY.load(newer).eval().model(picture), model(picture))
