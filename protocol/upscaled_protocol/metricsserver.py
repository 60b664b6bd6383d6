"""Prometheus metrics over HTTP, as `--metrics-address` asks for them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.registry import Collector

_LAST_PORT = 65535


def serve_metrics(address: str, collector: Collector) -> None:
    """Serve at HOST:PORT, in a thread of the library; without a host only for this machine.

    Raises `ValueError` for an address of another form, `OSError` if nothing can be served there,
    and `RuntimeError` if the machine has no room for the thread.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > _LAST_PORT:
        raise ValueError("give HOST:PORT, as in 127.0.0.1:9464")
    registry = CollectorRegistry()
    registry.register(collector)
    start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=registry)
