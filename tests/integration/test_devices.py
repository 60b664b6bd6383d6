"""One worker a device: what each of them sees, and when its GPU's memory is too much.

No GPU is needed: the workers compute nothing, and a stand-in for NVML reads what they take of
theirs from a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from upscaled_protocol.lineage import child_pids

if TYPE_CHECKING:
    from tests.conftest import Daemon, StartDaemon

# A GPU of 8000 MiB. What each of its processes takes stands in USED.
PYNVML = """
import os
from pathlib import Path
from types import SimpleNamespace as Namespace
MIB = 1024 * 1024
USED = Path(os.environ["FAKE_NVML_USED"])

class NVMLError(Exception):
    pass

def nvmlInit():
    pass

def nvmlDeviceGetHandleByIndex(index):
    if index:
        raise NVMLError("Invalid Argument")
    return "gpu"

def nvmlDeviceGetHandleByUUID(uuid):
    return "gpu"

def nvmlDeviceGetMemoryInfo(gpu):
    return Namespace(free=8000 * MIB)

def nvmlDeviceGetComputeRunningProcesses(gpu):
    pids = [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]
    return [Namespace(pid=pid, usedGpuMemory=int(USED.read_text()) * MIB) for pid in pids]
"""


class Gpu:
    def __init__(self, folder: Path) -> None:
        (folder / "pynvml.py").write_text(PYNVML)
        self._used = folder / "used"
        self.env = {"PYTHONPATH": str(folder), "FAKE_NVML_USED": str(self._used)}
        self.use(1000)

    def use(self, mib: int) -> None:
        """What every process takes of it."""
        pending = self._used.with_suffix(".new")
        pending.write_text(str(mib))
        pending.rename(self._used)


@pytest.fixture
def gpu(tmp_path: Path) -> Gpu:
    return Gpu(tmp_path)


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


def test_a_worker_that_grows_on_its_gpu_is_replaced(
    start_supervisor: StartDaemon, gpu: Gpu
) -> None:
    options = ("--device", "cuda:0", "--gpu-memory-limit-mb", "2000")
    daemon = start_supervisor(*options, env=gpu.env)
    daemon.wait_status("ready")
    assert daemon.ask_health()["workers"][0]["gpu_memory_used_mb"] == 1000
    gpu.use(1700)
    daemon.wait_stderr(b"worker_trimmed")
    gpu.use(2500)
    assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "memory"}


def test_models_above_the_gpu_limit_are_told_once_and_recycle_nothing(
    start_supervisor: StartDaemon, gpu: Gpu
) -> None:
    gpu.use(3000)
    options = ("--device", "cuda:0", "--gpu-memory-limit-mb", "2000", "--max-age-s", "4")
    daemon = start_supervisor(*options, env=gpu.env)
    daemon.wait_status("ready")
    # The age is looked at as often as the memory, and later: it is the first to count.
    assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "age"}
    assert daemon.stderr.count(b"memory_baseline_above_limit") == 1


def test_two_that_do_not_fit_on_a_gpu_follow_each_other(
    start_supervisor: StartDaemon, gpu: Gpu
) -> None:
    gpu.use(9000)  # of 8000 that are free
    daemon = start_supervisor("--device", "cuda:0", "--max-jobs", "1", env=gpu.env)
    daemon.job("b", hang=True)
    daemon.job("a", steps=0)  # which need not wait for the device, that "b" never gives back
    daemon.wait_terminal("a")
    daemon.wait_stderr(b"worker_recycled")
    row = daemon.wait_health(lambda one: one["workers"][0]["state"] == "draining")["workers"][0]
    assert child_pids(child_pids(daemon.pid)[0]) == [row["pid"]]
    daemon.job("c")
    daemon.send({"type": "cancel", "job_id": "b"})
    assert daemon.wait_terminal("c")["type"] == "result"
    assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "job_count"}
    assert all(line["attempt"] == 1 for line in daemon.terminals())


def test_a_gpu_that_nvml_does_not_know_harms_nobody(
    start_supervisor: StartDaemon, gpu: Gpu
) -> None:
    options = ("--device", "cuda:3", "--gpu-memory-limit-mb", "10", "--max-jobs", "1")
    daemon = start_supervisor(*options, env=gpu.env)
    daemon.job("a")
    daemon.wait_terminal("a")
    assert daemon.ask_health()["workers"][0]["gpu_memory_used_mb"] is None
    daemon.wait_status("worker_restarted")
    assert daemon.finish() == 0


def test_a_limit_that_cannot_be_kept_is_told(start_supervisor: StartDaemon) -> None:
    daemon = start_supervisor("--gpu-memory-limit-mb", "1000")
    daemon.wait_status("ready")
    daemon.wait_stderr(b"the GPU memory limit cannot be kept")


def test_the_automatic_device_has_its_gpu_measured_too(
    start_supervisor: StartDaemon, gpu: Gpu
) -> None:
    daemon = start_supervisor(env=gpu.env)
    daemon.wait_status("ready")
    assert daemon.ask_health()["workers"][0]["gpu_memory_used_mb"] == 1000
