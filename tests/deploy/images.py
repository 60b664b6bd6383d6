"""Builds and runs the image without a Docker engine: debootstrap, buildah and podman, as root.

The published Dockerfile is built on a base that is made here, with this machine's certificates and
pip settings in it, because a build has no other way to this machine's package indexes. Nothing of
that enters the Dockerfile.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAMS = ("buildah", "podman", "crun", "debootstrap", "unshare", "umount")
_PACKAGES = "ca-certificates,python3,python3-venv"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
_BUILD_TIMEOUT_S = 1800
# Within what the kernel lets a container have that has no more rights than this process.
_OPEN_FILES = 1024
_PROCESSES = 4096
_BASE = "localhost/upscaled-test-base"
IMAGE = "localhost/upscaled-test:latest"


def why_not() -> str | None:
    """The reason why no image can be built on this machine; None if one can."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if os.geteuid() != 0:
        return "building without root is not set up here"
    if _run(["unshare", "-m", "true"], check=False).returncode:
        return "this machine does not allow mount namespaces"
    return None


class Store:
    """A folder with images of its own; what is built in it is found again by the next run."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._options = ["--root", str(folder / "root"), "--runroot", str(folder / "run")]

    @staticmethod
    def in_cache() -> Store:
        """The one in the user's cache folder."""
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Store(Path(cache) / "upscaled-test-images")

    def build(self) -> None:
        """Build the image, with the layers that an earlier run left. Raises with the log's end."""
        base = self._make_base()
        volumes = [part for path in _pip_folders() for part in ("--volume", f"{path}:{path}:ro")]
        self._buildah(
            "bud",
            "--isolation=chroot",
            "--format=docker",
            "--layers",
            "--build-arg",
            f"BASE_IMAGE={base}",
            *volumes,
            "--file",
            str(ROOT / "docker" / "Dockerfile"),
            "--tag",
            IMAGE,
            str(ROOT),
        )

    @contextmanager
    def tree(self, *packages: str) -> Iterator[Path]:
        """The image's files in a folder of their own, with more of Debian's packages."""
        container = self._buildah("from", IMAGE).strip()
        try:
            install = (
                f"apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
            )
            self._buildah(
                "run", "--isolation=chroot", "--user=root", container, "--", "sh", "-c", install
            )
            yield Path(self._buildah("mount", container).strip())
        finally:
            self._buildah("rm", container)

    def run(self, *options: str, command: Sequence[str] = ()) -> list[str]:
        """The command line that runs the image as the README says: read-only, and without any
        capability. On the host's network, because this machine may have no bridge."""
        limits = (f"nofile={_OPEN_FILES}:{_OPEN_FILES}", f"nproc={_PROCESSES}:{_PROCESSES}")
        return self.podman(
            "run",
            "--rm",
            "--read-only",
            "--tmpfs=/tmp",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--network=host",
            "--cgroups=disabled",
            "--no-healthcheck",
            *(f"--ulimit={limit}" for limit in limits),
            *options,
            IMAGE,
            *command,
        )

    def podman(self, *arguments: str) -> list[str]:
        """The command line of podman on this store, in a mount namespace of its own."""
        command = [
            "podman",
            *self._options,
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=crun",
            *arguments,
        ]
        # crun refuses a mixed hierarchy of control groups.
        script = 'umount -l /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, "sh", *command]

    def _make_base(self) -> str:
        """The base image's name, by what is in it."""
        settings = _pip_settings()
        name = f"{_BASE}:{hashlib.sha256(settings.encode()).hexdigest()[:16]}"
        if self._buildah("images", "--quiet", "--filter", f"reference={name}").strip():
            return name
        tree = self.folder / "base"
        shutil.rmtree(tree, ignore_errors=True)
        _run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(tree)])
        if _CERTIFICATES.exists():
            shutil.copyfile(_CERTIFICATES, tree / _CERTIFICATES.relative_to("/"))
        (tree / "etc" / "pip.conf").write_text(settings, "utf-8")
        archive = self.folder / "base.tar"
        _run(["tar", "-C", str(tree), "-cf", str(archive), "."])
        _run(["podman", *self._options, "import", str(archive), name])
        shutil.rmtree(tree)
        archive.unlink()
        return name

    def _buildah(self, *arguments: str) -> str:
        return _run(["buildah", *self._options, *arguments]).stdout


def _pip_settings() -> str:
    """This machine's pip settings as one file, so that pip in the image finds the same packages."""
    listed = _run([sys.executable, "-m", "pip", "config", "list"]).stdout
    settings = dict(re.findall(r"^\w+\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
    settings.pop("constraint", None)
    lines = [
        f"{name} = {value.encode().decode('unicode_escape')}" for name, value in settings.items()
    ]
    return "\n".join(["[global]", *(line.replace("\n", "\n  ") for line in lines), ""])


def _pip_folders() -> list[Path]:
    """Folders of this machine that those settings name. An index has its files beside it."""
    found = re.findall(r"(?:file://)?(/[\w./+-]+)", _pip_settings())
    folders = {Path(path.removesuffix("/simple")) for path in found}
    return sorted(folder for folder in folders if folder.is_dir())


def _run(command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_BUILD_TIMEOUT_S
    )
    if check and done.returncode:
        raise RuntimeError(
            f"{' '.join(command[:3])} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
        )
    return done
