"""Which picture an `Accept` asks for."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from upscaled_http.preferences import picture_format, wants_picture
from upscaled_http.problems import ProblemError


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("image/*", "png"),
        ("image/jpeg", "jpeg"),
        ("Image/JPG", "jpeg"),
        ("image/webp, image/*;q=0.5", "webp"),
        ("image/gif, image/tiff", "tiff"),
        ("image/png; q=0.5, image/avif; q=0.9", "avif"),
        ("image/png;q=0, image/*", "tiff"),
        ("image/heic, */*;q=0.1", "png"),
    ],
)
def test_the_preferred_picture_that_is_written_here_is_chosen(accept: str, format_: str) -> None:
    assert picture_format(accept) == format_


@pytest.mark.parametrize("accept", ["image/gif", "image/png;q=0", "image/", "image/jp2, text/html"])
def test_without_a_picture_that_is_written_here_there_is_none(accept: str) -> None:
    with pytest.raises(ProblemError, match="image/png, image/tiff, image/jpeg") as caught:
        picture_format(accept)
    assert caught.value.status == 406


@pytest.mark.parametrize(
    ("accept", "is_picture"),
    [
        ("", False),
        ("*/*", False),
        ("image/gif", True),
        ("application/json, image/png", False),
        ("image/png, application/json", True),
        ("image/png;q=0.5, application/json", False),
    ],
)
def test_a_picture_is_wanted_if_it_is_preferred(accept: str, *, is_picture: bool) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    assert wants_picture(request) is is_picture
