"""What was found out about a weights file is found out once, and any of it can be lost or wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from recording import RecordingContext
from tiny_networks import CPU, compact, save
from upscaled_models.engine import Settings
from upscaled_models.esrgan import network, networks
from upscaled_models.esrgan.engine import EsrganEngine
from upscaled_models.esrgan.loading import load_descriptor
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.networks import Networks
from upscaled_models.esrgan.probecache import FOLDER, ProbeCache
from upscaled_models.esrgan.receptive import ReceptiveField
from upscaled_models.keptfiles import KeptFiles
from upscaled_protocol.configs import EsrganConfig


def in_tiles() -> nn.Module:
    from spandrel.architectures.SAFMN import SAFMN

    torch.manual_seed(0)
    model: nn.Module = SAFMN(dim=8, n_blocks=1)
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save(in_tiles(), tmp_path / "tiles.safetensors")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[ReceptiveField]:
    """Grows with each network that is shown pictures to see how far it looks."""
    found: list[ReceptiveField] = []

    def probe(*_: Any, **__: Any) -> ReceptiveField:
        found.append(ReceptiveField(20, 8))
        return found[-1]

    monkeypatch.setattr(network, "probe", probe)
    return found


def load(weights: Path, dtype: torch.dtype = torch.float32) -> Network:
    """The network, and how far it looks."""
    probe_cache = ProbeCache(weights.parent, weights, weights.stat(), CPU, dtype)
    loaded = Network(load_descriptor(weights), CPU, dtype, probe_cache)
    assert loaded.geometry
    return loaded


def entry(weights: Path) -> Path:
    (path,) = (weights.parent / FOLDER).iterdir()
    return path


def test_a_file_is_probed_once_under_any_name_and_again_once_its_content_changes(
    weights: Path, probes: list[ReceptiveField]
) -> None:
    first = load(weights)
    other = weights.rename(weights.with_name("other.safetensors"))
    again = load(other)
    assert len(probes) == 1
    assert again.geometry == first.geometry
    other.write_bytes(other.read_bytes()[:-4] + bytes(4))
    load(other)
    assert len(probes) == 2


def test_a_job_of_a_small_picture_does_not_ask_how_far_a_network_looks(
    weights: Path, probes: list[ReceptiveField]
) -> None:
    engine = EsrganEngine(Settings(model_dir=weights.parent, device="cpu"))
    engine.start()

    def upscale(width: int, **given: Any) -> None:
        path = weights.with_name("in.png")
        Image.effect_noise((width, 20), 90).convert("RGB").save(path)
        output = str(path.with_name(f"out-{width}.png"))
        config = EsrganConfig(image_path=str(path), output_path=output, model=str(weights), **given)
        engine.run(config, RecordingContext())

    upscale(90)
    assert not probes
    assert not (weights.parent / FOLDER).exists()
    # This one is cut.
    upscale(91, tile_size=32)
    assert len(probes) == 1
    assert entry(weights).exists()


def test_what_is_preloaded_is_ready_for_a_picture_of_any_size(
    weights: Path, probes: list[ReceptiveField]
) -> None:
    Networks(Settings(model_dir=weights.parent, device="cpu")).preload(str(weights))
    assert len(probes) == 1


def altered(**changes: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | changes).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-5],
        lambda data: b"\xff" * 10_000,
        altered(versions={"upscaled": "0.0.1"}),
        altered(tiles={"radius": -1, "period": 1, "pixel_bytes": 1}),
        altered(tiles={"radius": 1, "period": 1, "pixel_bytes": "1"}),
        altered(unknown=1),
    ],
)
def test_a_damaged_or_foreign_entry_is_ignored_and_made_anew(
    weights: Path, probes: list[ReceptiveField], damage: Callable[[bytes], bytes]
) -> None:
    load(weights)
    right = entry(weights).read_bytes()
    entry(weights).write_bytes(damage(right))
    load(weights)
    assert len(probes) == 2
    assert entry(weights).read_bytes() == right


def test_a_folder_that_cannot_be_written_is_no_error(
    weights: Path, probes: list[ReceptiveField]
) -> None:
    (weights.parent / FOLDER).touch()
    load(weights)
    load(weights)
    assert len(probes) == 2


def test_a_file_that_is_replaced_while_it_is_loaded_teaches_nothing(
    weights: Path, probes: list[ReceptiveField]
) -> None:
    probe_cache = ProbeCache(weights.parent, weights, weights.stat(), CPU, torch.float32)
    descriptor = load_descriptor(weights)
    save(compact(), weights)
    assert Network(descriptor, CPU, torch.float32, probe_cache).geometry
    assert not (weights.parent / FOLDER).exists()


def test_a_precision_that_failed_is_not_tried_by_the_next_worker(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = torch.bfloat16
    probe_cache = ProbeCache(weights.parent, weights, weights.stat(), CPU, half)
    probe_cache.keep_tiles(ReceptiveField(20, 8), 100)
    probe_cache.keep_imprecise()
    assert probe_cache.find().tiles is not None

    made = []

    def loaded(_: Any, __: Any, dtype: torch.dtype, ___: Any) -> Any:
        made.append(dtype)
        return load(weights)

    monkeypatch.setattr(networks, "Network", loaded)
    monkeypatch.setattr(networks, "choose_dtype", lambda *_, **__: (half, None))
    worker = Networks(Settings(model_dir=weights.parent, device="cpu"))
    worker.preload(str(weights))
    other = save(compact(), weights.with_name("other.safetensors"))
    worker.preload(str(other))
    assert made == [torch.float32, half]


def test_the_oldest_files_go_first(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    kept = KeptFiles(tmp_path, ".json", 2)
    for number, name in enumerate("abc"):
        assert kept.keep(name, b"1")
        os.utime(kept.path(name), (number, number))
    assert kept.keep("d", b"1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.json", "d.json", "mine.txt"]
