"""The options of `upscaled run`: a value that means nothing is refused."""

from __future__ import annotations

import pytest

from simulation import Simulation
from upscaled_supervisor.options import read_options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--device", "cuda:x"),
        ("--device", "gpu"),
        ("--device", "cuda:-1"),
        ("--device", "cpu,,cpu"),
        ("--device", ""),
        ("--device", "cuda:1"),
        ("--workers", "0"),
        ("--memory-limit-mb", "-5"),
        ("--gpu-memory-limit-mb", "nan"),
        ("--max-age-s", "inf"),
        ("--journal", ""),
    ],
)
def test_an_option_that_means_nothing_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    value: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(SystemExit) as ended:
        read_options([option, value])
    assert ended.value.code == 2
    assert option in capsys.readouterr().err


def test_an_option_of_the_workers_is_passed_on() -> None:
    options = read_options(["--preload", "x", "--workers", "2", "--max", "3"])
    assert options.worker_argv == ["--preload", "x", "--max", "3"]


def test_there_is_one_worker_per_device() -> None:
    assert read_options(["--device", "cpu,cpu,cpu"]).workers == 3
    assert read_options([]).workers == 1


def test_an_empty_environment_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSCALED_METRICS_ADDRESS", "")
    assert read_options([]).metrics_address is None


@pytest.mark.parametrize(
    "address", ["127.0.0.1:many", "127.0.0.1", "no.such.host.invalid:0", "127.0.0.1:70000"]
)
def test_a_metrics_address_that_can_never_be_served_is_wrong_usage(address: str) -> None:
    daemon = Simulation("--metrics-address", address)
    assert daemon.wait() == 2
    assert b"cannot serve metrics" in daemon.stderr
    daemon.close()
