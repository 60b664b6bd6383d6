"""Memory in containers of both kinds, nested and not."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from upscaled_protocol.memorygroup import available_bytes, count_oom_kills, total_bytes

MIB = 2**20
NO_LIMIT = "9223372036854771712"


class Machine:
    """A /proc and a control group tree in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.tree = folder / "tree"
        (self.proc / "self").mkdir(parents=True)
        (self.proc / "vmstat").write_text("nr_free_pages 12\noom_kill 300\n")

    def mount(self, version: int, path: str, root: str = "/") -> None:
        """Have the process be in the group `path`, and the group `root` be mounted at `tree`."""
        name, kind, options = (
            ("", "cgroup2", "rw") if version == 2 else ("memory", "cgroup", "memory")
        )
        (self.proc / "self/cgroup").write_text(f"3:cpu:/elsewhere\n1:{name}:{path}\n")
        (self.proc / "self/mountinfo").write_text(
            "30 23 0:5 / / rw - ext4 /dev/root rw\n"
            f"31 30 0:6 {root} {self.tree} rw,relatime shared:9 - {kind} none rw,{options}\n"
        )

    def write(self, group: str, **files: object) -> None:
        folder = self.tree / group
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / f"memory.{name.replace('__', '.')}").write_text(f"{content}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(
    ("path", "root"), [("/pod/box", "/"), ("/docker/77", "/docker/77"), ("/", "/")]
)
def test_the_limit_of_the_group_counts_and_its_cache_is_available(
    machine: Machine, path: str, root: str
) -> None:
    group = path.removeprefix(root).strip("/")
    machine.mount(2, path, root)
    machine.write(group, max=100 * MIB, current=90 * MIB, stat=f"anon 1\ninactive_file {60 * MIB}")
    assert available_bytes(machine.proc) == 70 * MIB
    assert total_bytes(machine.proc) == 100 * MIB


def test_the_smallest_of_nested_limits_counts(machine: Machine) -> None:
    machine.mount(2, "/pod/box")
    machine.write("pod/box", max="max", current=10 * MIB)
    machine.write("pod", max=50 * MIB, current=45 * MIB)
    assert available_bytes(machine.proc) == 5 * MIB
    assert total_bytes(machine.proc) == 50 * MIB


def test_control_groups_of_version_1_are_read_too(machine: Machine) -> None:
    machine.mount(1, "/docker/77", "/docker/77")
    machine.write(
        "",
        limit_in_bytes=80 * MIB,
        usage_in_bytes=50 * MIB,
        stat=f"inactive_file 1\ntotal_inactive_file {20 * MIB}",
        oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 4",
    )
    assert available_bytes(machine.proc) == 50 * MIB
    assert count_oom_kills(machine.proc) == 4


def test_without_a_limit_the_machine_counts(machine: Machine) -> None:
    machine.mount(1, "/")
    machine.write("", limit_in_bytes=NO_LIMIT, usage_in_bytes=50 * MIB)
    assert available_bytes(machine.proc) > 50 * MIB
    assert total_bytes(machine.proc) == psutil.virtual_memory().total
    assert total_bytes(machine.tree / "nothing") == psutil.virtual_memory().total


def test_kills_of_other_groups_do_not_count(machine: Machine) -> None:
    machine.mount(2, "/pod/box")
    machine.write("pod/box", events__local="oom 9\noom_kill 2", events="oom 9\noom_kill 5")
    machine.write("pod", events__local="oom_kill 0", events="oom_kill 70")
    assert count_oom_kills(machine.proc) == 2
    (machine.tree / "pod/box/memory.events.local").unlink()
    assert count_oom_kills(machine.proc) == 5


def test_kills_of_the_machine_count_if_no_group_counts_them(machine: Machine) -> None:
    machine.mount(2, "/")
    assert count_oom_kills(machine.proc) == 300
    machine.mount(2, "/../outside")
    assert count_oom_kills(machine.proc) == 300
    assert count_oom_kills(machine.tree / "nothing") == 0
