"""The control groups that this process is in (Linux, both versions).

Groups are nested, and each may have a limit. See the kernel's admin-guide/cgroup-v2.rst and
cgroup-v1/cgroups.rst.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def control_groups(controller: str, proc: Path = PROC) -> tuple[int, list[Path]]:
    """The version that a controller has here, and the folders of its groups, the innermost first.
    None if they cannot be found."""
    try:
        groups = (proc / "self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
        mounts = (proc / "self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return 2, []
    paths = {controllers: path for _, controllers, path in (one.split(":", 2) for one in groups)}
    for controllers, path in paths.items():
        if controller in controllers.split(","):
            return 1, list(_folders(path, mounts, "cgroup", controller))
    if "" in paths:
        return 2, list(_folders(paths[""], mounts, "cgroup2", ""))
    return 2, []


def _folders(path: str, mounts: list[str], kind: str, controller: str) -> Iterator[Path]:
    for mount in mounts:
        before, _, after = mount.partition(" - ")
        _, _, _, root, point, *_ = before.split(" ")
        found, _, options = after.split(" ")[:3]
        if found == kind and (not controller or controller in options.split(",")):
            top = Path(point)
            # In a container the group may be the root of the mount, or have its outer name.
            inside = path.removeprefix(root.rstrip("/")) if _is_below(path, root) else ""
            folder = top / inside.strip("/")
            while folder != top and top in folder.parents:
                yield folder
                folder = folder.parent
            yield top
            return


def _is_below(path: str, root: str) -> bool:
    return ".." not in path.split("/") and f"{path}/".startswith(f"{root.rstrip('/')}/")
