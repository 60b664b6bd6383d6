"""A daemon with Imagen jobs, and the strict stand-in for the service that it talks to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyvips

from answering import answering
from upscaled_models.imagen.loopback import Loopback
from waiting import wait_until

if TYPE_CHECKING:
    from tests.conftest import Daemon

CANARY = "ya29.canary-that-must-not-sing"
SUPERVISOR = ("upscaled_supervisor", "--methods", "imagen")
# Whatever this machine knows of Google stays out of the tests.
NOBODY = {
    "GOOGLE_APPLICATION_CREDENTIALS": "",
    "GOOGLE_OAUTH_ACCESS_TOKEN": "",
    "GCP_PROJECT_ID": "",
    "GCP_REGION": "",
    "CLOUDSDK_CONFIG": "/nonexistent",
    "NO_GCE_CHECK": "true",
}


@contextmanager
def serving(**options: Any) -> Iterator[Loopback]:
    """A server of our own."""
    with answering(Loopback(**options)) as server:
        yield server


class Host:
    """Sends jobs of one test, under names of its own."""

    def __init__(self, daemon: Daemon, name: str) -> None:
        self.daemon = daemon
        self._name = name
        self._count = 0

    def send(self, path: Path, **config: Any) -> str:
        """Start a job; its id."""
        self._count += 1
        job_id = f"{self._name}-{self._count}"
        self.daemon.job(job_id, "imagen", image_path=str(path), **config)
        return job_id

    def run(self, path: Path, **config: Any) -> dict[str, Any]:
        """One job and its end."""
        return self.daemon.wait_terminal(self.send(path, **config))

    def warm_up(self, path: Path) -> None:
        """Until a job has its picture: a short budget may pass while the SDK is imported."""
        wait_until(lambda: self.run(path)["type"] == "result", "a first picture")


def save(path: Path, pixels: np.ndarray) -> Path:
    pyvips.Image.new_from_array(pixels).write_to_file(str(path))
    return path


def load(path: str | Path) -> np.ndarray:
    pixels: np.ndarray = pyvips.Image.new_from_file(str(path)).numpy()
    return pixels


def photo(width: int = 80, height: int = 60) -> np.ndarray:
    """Smooth colours and some noise, (h, W, 3)."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(rows / (7 + band)) * np.cos(columns / 11) for band in range(3)]
    noise = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return (np.stack(waves, axis=2) + noise).clip(0, 255).astype(np.uint8)
