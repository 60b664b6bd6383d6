"""Models in memory: loaded once, and let go by budget and by time."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from upscaled_models.memory import ModelCache, file_version, shared_models
from upscaled_protocol.memorygroup import available_bytes, total_bytes
from waiting import TIMEOUT_S, wait_until


@dataclass
class Model:
    size_bytes: int


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def use(cache: ModelCache, name: str, size: int = 10) -> Model:
    """Use a model; it is loaded if it is not in memory."""
    with cache.use(name, name, size, lambda: Model(size)) as model:
        return model


def test_a_model_is_loaded_once() -> None:
    cache = ModelCache()
    assert use(cache, "a") is use(cache, "a")
    assert cache.names() == ["a"]
    assert cache.size_bytes == 10


def test_the_model_used_longest_ago_is_unloaded_first() -> None:
    cache = ModelCache(budget_bytes=30)
    first = use(cache, "a")
    for name in ("b", "c"):
        use(cache, name)
    use(cache, "a")
    use(cache, "d")
    assert cache.names() == ["c", "a", "d"]
    assert use(cache, "a") is first


def test_memory_is_freed_before_a_model_is_loaded() -> None:
    cache = ModelCache(budget_bytes=30)
    use(cache, "a", 20)
    seen: list[list[str]] = []

    def load() -> Model:
        seen.append(cache.names())
        return Model(20)

    with cache.use("b", "b", 20, load):
        pass
    assert seen == [[]]


def test_a_model_in_use_is_never_unloaded() -> None:
    cache = ModelCache(budget_bytes=15)
    with cache.use("a", "a", 10, lambda: Model(10)):
        use(cache, "b")
        assert "a" in cache.names()
        assert cache.unload_unused() <= 1
        assert cache.names() == ["a"]
    use(cache, "b")
    assert cache.names() == ["b"]


def test_one_model_may_exceed_the_budget_while_it_is_used() -> None:
    cache = ModelCache(budget_bytes=5)
    with cache.use("a", "a", 10, lambda: Model(10)) as model:
        assert model.size_bytes == 10
        assert cache.names() == ["a"]


def test_a_model_is_unloaded_after_its_idle_time() -> None:
    clock = Clock()
    cache = ModelCache(idle_s=60, clock=clock)
    use(cache, "a")
    clock.now += 40
    use(cache, "b")
    with cache.use("c", "c", 10, lambda: Model(10)):
        clock.now += 30
        assert cache.unload_idle() == 1
        assert cache.names() == ["b", "c"]
        clock.now += 1000
        assert cache.unload_idle() == 1
    assert cache.names() == ["c"]
    assert cache.unload_idle() == 0


def test_without_an_idle_time_models_are_kept() -> None:
    clock = Clock()
    cache = ModelCache(clock=clock)
    use(cache, "a")
    clock.now += 1e9
    assert cache.unload_idle() == 0
    assert cache.names() == ["a"]


def test_unused_models_can_be_unloaded_at_once() -> None:
    cache = ModelCache()
    use(cache, "a")
    use(cache, "b")
    assert cache.unload_unused() == 2
    assert cache.names() == []
    assert cache.size_bytes == 0


def test_two_threads_that_want_a_model_get_the_same_one() -> None:
    cache = ModelCache()
    loading, go_on = threading.Event(), threading.Event()
    got: list[Model] = []

    def load() -> Model:
        loading.set()
        assert go_on.wait(TIMEOUT_S)
        return Model(10)

    def job() -> None:
        with cache.use("a", "a", 10, load) as model:
            got.append(model)

    threads = [threading.Thread(target=job) for _ in range(4)]
    threads[0].start()
    assert loading.wait(TIMEOUT_S)
    for thread in threads[1:]:
        thread.start()
    # Another model does not wait for the one that takes long.
    use(cache, "b")
    go_on.set()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(got) == 4
    assert all(model is got[0] for model in got)


def test_after_a_failed_load_the_next_user_loads_again() -> None:
    cache = ModelCache()

    def fail() -> Model:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="disk"), cache.use("a", "a", 10, fail):
        pass
    assert cache.names() == []
    assert use(cache, "a").size_bytes == 10


def test_models_of_one_name_differ_by_their_key() -> None:
    cache = ModelCache()
    with (
        cache.use(("a", "fp32"), "a", 10, lambda: Model(10)) as full,
        cache.use(("a", "bf16"), "a", 5, lambda: Model(5)) as half,
    ):
        assert full is not half
    assert cache.names() == ["a"]
    assert cache.size_bytes == 15


def test_available_memory_is_at_most_the_machines() -> None:
    import psutil

    assert 0 < available_bytes() <= psutil.virtual_memory().total


def test_engines_with_the_same_limits_share_a_cache() -> None:
    assert shared_models(2.0, 60.0) is shared_models(2.0, 60.0)
    assert shared_models(2.0, 60.0) is not shared_models(3.0, 60.0)


def test_a_cache_without_a_budget_leaves_half_of_the_memory() -> None:

    cache = shared_models(None, 1234.0)
    third = total_bytes() // 3
    use(cache, "a", third)
    use(cache, "b", third)
    assert cache.names() == ["b"]
    cache.unload_unused()


def test_a_model_that_exceeds_the_budget_is_kept_for_the_next_job_with_it() -> None:
    cache = ModelCache(budget_bytes=5)
    assert use(cache, "a") is use(cache, "a")
    use(cache, "b")
    assert cache.names() == ["b"]


def test_an_accelerator_s_models_may_take_its_memory_and_not_the_host_s() -> None:
    cache = shared_models(None, 12.0, device_bytes=20)
    assert cache is shared_models(None, 12.0, device_bytes=20)
    for name in ("a", "b", "c"):
        use(cache, name)
    assert cache.names() == ["b", "c"]


def test_a_file_that_was_written_again_is_another_also_under_its_old_time(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(b"old")
    before = path.stat()

    def written_again() -> bool:
        path.write_bytes(b"new")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return file_version(path.stat()) != file_version(before)

    wait_until(written_again, "another version")
    assert (path.stat().st_mtime_ns, path.stat().st_size) == (before.st_mtime_ns, before.st_size)
