"""The image that the tests run, built once for all of them."""

from __future__ import annotations

import os

import pytest

from images import Store, why_not


@pytest.fixture(scope="session")
def store() -> Store:
    """The folder with the image. Where none can be built, the test is skipped with the reason."""
    reason = why_not()
    if reason is not None:
        pytest.skip(f"no image can be built here: {reason}")
    store = Store.in_cache()
    # The Makefile builds it beside other work, and says so.
    if "IMAGE_IS_BUILT" not in os.environ:
        store.build()
    return store
