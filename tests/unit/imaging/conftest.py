"""What the imaging tests share: a job's surroundings, and an engine that only repeats pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from picture_server import running_picture_server
from recording import RecordingContext
from upscaled_imaging.dimensions import plan_size
from upscaled_imaging.output import plan_output
from upscaled_imaging.read import Source, open_source
from upscaled_imaging.settings import Access, PictureSettings
from upscaled_imaging.write import open_sink
from upscaled_protocol import urlpolicy
from upscaled_protocol.configs import EsrganConfig
from upscaled_protocol.messages import Size
from upscaled_protocol.urlpolicy import UrlPolicy


@pytest.fixture
def context() -> RecordingContext:
    return RecordingContext()


@pytest.fixture
def settings(tmp_path: Path) -> PictureSettings:
    return PictureSettings()


Opener = Callable[..., AbstractContextManager[Source]]
Upscale = Callable[..., str]


@pytest.fixture
def opened(settings: PictureSettings, context: RecordingContext) -> Opener:
    """Opens a source by the fields of a config."""

    def open_it(**fields: Any) -> AbstractContextManager[Source]:
        fields = {key: str(value) for key, value in fields.items()}
        return open_source(EsrganConfig(**fields), settings, context)

    return open_it


@pytest.fixture
def upscale(settings: PictureSettings, context: RecordingContext) -> Upscale:
    """Runs a job whose engine repeats each pixel `times` across and down."""

    def run(times: int = 2, rows_at_once: int = 7, **fields: Any) -> str:
        config = EsrganConfig(**fields)
        with open_source(config, settings, context) as source:
            size = Size(width=source.width, height=source.height)
            plan = plan_size(config, size, factor=times, default_dpi=150)
            output = plan_output(config, settings, source, plan, method="esrgan", context=context)
            native = Size(width=source.width * times, height=source.height * times)
            with open_sink(output, native, source.bands, source.bits) as sink:
                while source.rows_left:
                    rows = source.rows(rows_at_once)
                    sink.write(rows.repeat(times, axis=0).repeat(times, axis=1))
                return str(sink.commit().output_path)

    return run


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with running_picture_server() as running:
        yield running


@pytest.fixture
def base(server: ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_port}"


@pytest.fixture
def private(settings: PictureSettings) -> PictureSettings:
    return replace(settings, access=Access(urls=UrlPolicy(allow_private=True)))


@pytest.fixture
def only_first_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 counts as public, and the rest of 127/8 as private."""
    monkeypatch.setattr(urlpolicy, "is_public", lambda address: str(address) == "127.0.0.1")
