"""Architectures of the extra `[more-architectures]`: with it, without it, and their licences."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

from recording import RecordingContext
from upscaled_cli import exits
from upscaled_cli.models import main as models_command
from upscaled_models.engine import Settings
from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.errors import ErrorCode, JobError

NAMES = (
    "conv_first.weight",
    "layers.0.residual_group.blocks.0.attn.aligned_relative_position_index",
)


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_without_the_extra_a_file_of_its_kind_names_it_and_the_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapper: str
) -> None:
    path = tmp_path / "srformer.safetensors"
    safetensors.torch.save_file({wrapper + name: torch.zeros(1) for name in NAMES}, path)
    monkeypatch.setattr(morearchitectures, "is_installed", lambda: False)
    with pytest.raises(JobError) as caught:
        load_descriptor(path)
    assert caught.value.code is ErrorCode.MODEL_CORRUPT
    assert "pip install 'upscaled[more-architectures]'" in caught.value.message
    assert "SRFormer" in caught.value.message
    assert "CC-BY-NC-4.0" in caught.value.message


@pytest.mark.filterwarnings("ignore")  # the architecture's own
def test_with_the_extra_a_picture_is_upscaled_and_the_licence_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = pytest.importorskip("spandrel_extra_arches.architectures.SRFormer")
    torch.manual_seed(0)
    layer = {"embed_dim": 12, "depths": [2], "num_heads": [2], "window_size": 8, "img_size": 16}
    model = extra.SRFormer(**layer, upscale=2, upsampler="pixelshuffledirect")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(weights, tmp_path / "tiny.safetensors")
    Image.new("RGB", (20, 16), "teal").save(tmp_path / "in.png")
    engine = EsrganEngine(Settings(model_dir=tmp_path, threads=1))
    engine.start()
    config = EsrganConfig(
        image_path=str(tmp_path / "in.png"),
        output_path=str(tmp_path / "out.png"),
        model=str(tmp_path / "tiny.safetensors"),
        upscale_factor=2,
    )
    context = RecordingContext()
    engine.run(config, context)
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (40, 32)
    note = "the code of the architecture SRFormer is for non-commercial use only (CC-BY-NC-4.0)"
    assert context.warnings == [note]
    added = ["add", str(tmp_path / "tiny.safetensors"), "--model-dir", str(tmp_path)]
    assert models_command(added) == exits.OK
    said = capsys.readouterr().out
    assert "tiny: SRFormer, 2x, RGB" in said
    assert f"licence: {note}" in said
