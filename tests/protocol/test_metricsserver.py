"""The server of `--metrics-address`."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import psutil
import pytest
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from upscaled_protocol.metricsserver import serve_metrics
from waiting import TIMEOUT_S


class One(Collector):
    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("one", "A number.", value=1)


def listening() -> set[tuple[str, int]]:
    connections = psutil.Process().net_connections("tcp")
    return {tuple(one.laddr) for one in connections if one.status == psutil.CONN_LISTEN}


def test_without_a_host_only_this_machine_is_served() -> None:
    before = listening()
    serve_metrics(":0", One())  # the kernel chooses the port
    ((host, port),) = listening() - before
    assert host == "127.0.0.1"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S) as answer:
        assert b"one 1.0" in answer.read()


@pytest.mark.parametrize("address", ["127.0.0.1", "9464", "127.0.0.1:many", "127.0.0.1:70000", ""])
def test_another_form_of_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="give HOST:PORT"):
        serve_metrics(address, One())
