"""The data folder: what is counted, and what is removed."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from upscaled_http.config import StorageSettings
from upscaled_http.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """An open storage. Its lock ends with the object."""
    opened = Storage(StorageSettings(data_dir=tmp_path))
    opened.open()
    return opened


def test_too_little_room_makes_the_storage_full(storage: Storage, tmp_path: Path) -> None:
    assert not storage.is_full
    assert Storage(StorageSettings(data_dir=tmp_path, min_free_mb=10**9)).is_full


def test_bytes_are_counted_as_files_come_and_go(storage: Storage) -> None:
    job_id = str(uuid.uuid4())
    received = storage.incoming / "received"
    received.write_bytes(b"input")
    storage.take_upload(received, job_id, 5)
    assert (storage.uploads_bytes, storage.results_bytes) == (5, 0)
    result, preview = storage.result(f"{job_id}.png"), storage.result(f"{job_id}.preview-256.webp")
    for path in (result, preview):
        path.write_bytes(b"picture")
        assert storage.note_result(path) == 7
    storage.remove_upload(job_id)
    storage.remove_upload(job_id)
    assert (storage.uploads_bytes, storage.results_bytes) == (0, 14)
    assert storage.remove_result(result.name) == 14
    assert (storage.uploads_bytes, storage.results_bytes) == (0, 0)
    assert not preview.exists()


def test_a_sweep_counts_the_files_of_jobs_and_an_open_jobs_result_at_its_end(
    storage: Storage,
) -> None:
    ended, open_id, nobodys = (str(uuid.uuid4()) for _ in range(3))
    storage.upload(open_id).write_bytes(b"12")
    storage.upload(nobodys).write_bytes(b"1234")
    for name in (f"{ended}.png", f"{ended}.preview-256.webp", f"{open_id}.png", f"{nobodys}.png"):
        storage.result(name).write_bytes(b"123")
    (storage.incoming / "folder").mkdir()
    (storage.incoming / "folder" / "file").write_bytes(b"123")
    storage.sweep({open_id}, {f"{ended}.png"})
    assert not (storage.incoming / "folder").exists()
    assert (storage.uploads_bytes, storage.results_bytes) == (2, 6)
    assert not storage.upload(nobodys).exists()
    assert not storage.result(f"{nobodys}.png").exists()
    storage.note_result(storage.result(f"{open_id}.png"))
    assert storage.results_bytes == 9
