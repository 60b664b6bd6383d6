"""One set of replica files for the FLUX tests, which take copies of it to damage."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from upscaled_bench.flux_replicas import Replica
    from upscaled_models.flux.files import Files


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """So little work is done sooner by one thread than by several that wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Replica:
    from upscaled_bench.flux_replicas import install_upscaler, write_replica

    replica = write_replica(tmp_path_factory.mktemp("flux") / "models")
    install_upscaler(replica.folder)
    return replica


@pytest.fixture
def files(replica: Replica) -> Files:
    """The files of a job, as the engine finds them."""
    from upscaled_bench.flux_replicas import job_files

    return job_files(replica.folder)


@pytest.fixture
def copy(replica: Replica, tmp_path: Path) -> Path:
    """A copy of the model folder that a test may change."""
    return Path(shutil.copytree(replica.folder, tmp_path / "models"))
