"""One worker a device: what each of them sees, and when its GPU's memory is too much.

No GPU is needed: the workers compute nothing, and a stand-in for NVML reads what they take of
theirs from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon


def worker_environment(daemon: Daemon, slot: int) -> dict[str, str]:
    """A fresh interpreter's, as the kernel shows it."""
    report = daemon.wait_health(lambda one: one["workers"][slot]["state"] == "ready")
    text = Path(f"/proc/{report['workers'][slot]['pid']}/environ").read_text()
    return dict(entry.split("=", 1) for entry in text.split("\0") if entry)


@pytest.mark.parametrize(
    ("visible", "devices", "seen"),
    [
        (None, "cuda:0,cuda:1", ["0", "1"]),
        ("2,5", "cuda:1,cuda:0", ["5", "2"]),
        ("GPU-aa,GPU-bb", "cuda:0,cuda:1", ["GPU-aa", "GPU-bb"]),
        ("3", "cuda:0,cuda:0", ["3", "3"]),
    ],
)
def test_a_worker_sees_its_own_device_alone(
    start_supervisor: StartDaemon, visible: str | None, devices: str, seen: list[str]
) -> None:
    env = {"CUDA_VISIBLE_DEVICES": visible} if visible else {}
    daemon = start_supervisor("--no-template", "--device", devices, env=env)
    environments = [worker_environment(daemon, slot) for slot in range(len(seen))]
    assert [one["CUDA_VISIBLE_DEVICES"] for one in environments] == seen
