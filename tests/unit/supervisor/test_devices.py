"""One worker per device: what each is given, and when its GPU's memory is too much."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from simulation import Simulation, simulated
from upscaled_supervisor.devices import place_workers

MIB = 1024 * 1024


class Gpu:
    """A stand-in for the library `pynvml`, with one GPU of which each process takes `used_mb`."""

    def __init__(self) -> None:
        self.used_mb = 1000
        self.free_mb = 8000

    def nvmlInit(self) -> None:  # noqa: N802 - the library's names
        pass

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index:
            raise OSError("Invalid Argument")
        return "gpu"

    def nvmlDeviceGetMemoryInfo(self, _: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(free=self.free_mb * MIB)

    def nvmlDeviceGetComputeRunningProcesses(self, _: str) -> list[SimpleNamespace]:  # noqa: N802
        used = self.used_mb * MIB
        return [SimpleNamespace(pid=1_000_000 + n, usedGpuMemory=used) for n in range(20)]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    one = Gpu()
    monkeypatch.setitem(sys.modules, "pynvml", one)
    return one


@pytest.mark.parametrize(
    ("visible", "devices", "seen"),
    [
        (None, ["cuda:0", "cuda:1"], ["0", "1"]),
        ("2,5", ["cuda:1", "cuda:0"], ["5", "2"]),
        ("GPU-aa,GPU-bb", ["cuda:0", "cuda:1"], ["GPU-aa", "GPU-bb"]),
        ("3", ["cuda:0", "cuda:0"], ["3", "3"]),
    ],
)
def test_a_worker_sees_only_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, devices: list[str], seen: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    placements = place_workers(2, devices)
    assert [one.env["CUDA_VISIBLE_DEVICES"] for one in placements] == seen
    assert [one.argv[:2] for one in placements] == [["--device", "cuda:0"]] * 2


def test_devices_are_taken_in_turn_and_the_cores_are_shared() -> None:
    placements = place_workers(4, ["cpu", "mps"])
    assert [one.argv[1] for one in placements] == ["cpu", "mps", "cpu", "mps"]
    assert all(one.argv[2:] == ["--sharers", "4"] for one in placements)
    assert place_workers(1, [])[0].argv == ["--device", "auto"]


def gpu_used_mb(daemon: Simulation) -> float | None:
    used = daemon.ask_health()["workers"][0]["gpu_memory_used_mb"]
    return None if used is None else float(used)


def test_a_worker_that_grows_on_its_gpu_is_trimmed_and_then_replaced(gpu: Gpu) -> None:
    with simulated("--device", "cuda:0", "--gpu-memory-limit-mb", "2000") as daemon:
        daemon.settle()
        assert gpu_used_mb(daemon) == 1000
        gpu.used_mb = 1700
        daemon.wait_until(lambda: b"worker_trimmed" in daemon.stderr, "trim")
        gpu.used_mb = 2500
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "memory"}


def test_models_above_the_gpu_limit_are_logged_once_and_recycle_nothing(gpu: Gpu) -> None:
    gpu.used_mb = 3000
    with simulated("--device", "cuda:0", "--gpu-memory-limit-mb", "2000") as daemon:
        daemon.run_for(60.0)
        assert len(daemon.workers) == 1
        assert daemon.stderr.count(b"memory_baseline_above_limit") == 1


def test_two_workers_that_do_not_fit_on_a_gpu_follow_each_other(gpu: Gpu) -> None:
    gpu.used_mb = 9000  # of 8000 that are free
    with simulated("--device", "cuda:0", "--max-jobs", "1") as daemon:
        daemon.job("first")
        daemon.job("long", config={"hang": True})
        old = daemon.wait_held("long")
        daemon.run_for(10.0)
        assert len(daemon.workers) == 1
        old.finish("long")
        assert daemon.wait_status("worker_restarted")["cause"] == {"reason": "job_count"}


def test_a_gpu_that_nvml_does_not_know_is_not_measured(gpu: Gpu) -> None:
    options = ("--device", "cuda:3", "--gpu-memory-limit-mb", "10", "--max-jobs", "1")
    with simulated(*options) as daemon:
        daemon.job("a")
        daemon.wait_terminal("a")
        assert gpu_used_mb(daemon) is None
        daemon.wait_status("worker_restarted")


def test_the_gpu_of_the_automatic_device_is_measured_too(gpu: Gpu) -> None:
    with simulated() as daemon:
        daemon.settle()
        assert gpu_used_mb(daemon) == 1000


def test_a_limit_that_cannot_be_kept_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with simulated("--gpu-memory-limit-mb", "1000") as daemon:
        daemon.settle()
        assert b"the GPU memory limit cannot be kept" in daemon.stderr
