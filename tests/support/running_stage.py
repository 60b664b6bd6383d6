"""A stage outside of a job: runs a network over a picture, and records what it asks the job for."""

from __future__ import annotations

import torch
from torch import Tensor

from tiny_networks import in_bands
from upscaled_models.esrgan.network import Network
from upscaled_models.esrgan.stage import Stage
from upscaled_models.esrgan.tile import Tile
from upscaled_protocol.errors import ErrorCode, JobError


class RecordingHost:
    """The job that a stage is part of."""

    def __init__(self, spare: Network | None = None) -> None:
        self.tiles_done = 0
        self.rooms_made = 0
        self._spare = spare

    def tile_done(self) -> None:
        self.tiles_done += 1

    def make_room(self) -> None:
        self.rooms_made += 1

    def full_precision(self, failed: Network) -> Network:
        if failed.dtype == torch.float32:
            raise JobError(ErrorCode.MODEL_CORRUPT, "the network gives no numbers")
        assert self._spare is not None
        return self._spare


def upscaled(
    network: Network,
    picture: Tensor,
    tile: Tile | None = None,
    host: RecordingHost | None = None,
    band_rows: int = 13,
) -> Tensor:
    """The whole result; without a tile, computed in one piece."""
    height, width = picture.shape[2:]
    whole = Tile(
        -(-width // network.align) * network.align, -(-height // network.align) * network.align
    )
    stage = Stage(network, width, height, tile or whole, host or RecordingHost())
    result = torch.cat(list(stage.run(in_bands(picture, band_rows))), 2)
    assert result.shape == (
        len(picture),
        network.channels,
        height * network.scale,
        width * network.scale,
    )
    return result
