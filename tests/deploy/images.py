"""Builds and runs the image without a Docker engine: debootstrap, buildah and podman, as root.

The published Dockerfile is built on a base that is made here, with this machine's certificates and
pip settings in it, because a build has no other way to this machine's package indexes. Nothing of
that enters the Dockerfile.

    python3 tests/deploy/images.py      builds it, or says in one line why it cannot
"""

from __future__ import annotations

import fcntl
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
# An image takes about 3 GB with the layers that it is built from.
_MOST_MB = 15_000
# Within what the kernel lets a container have that has no more rights than this process.
_OPEN_FILES = 1024
_PROCESSES = 4096
_BASE = "localhost/upscaled-test-base"
_NODE = "localhost/upscaled-test-node:latest"
_GO = "localhost/upscaled-test-golang:latest"
IMAGE = "localhost/upscaled-test:latest"
NEST_IMAGE = "localhost/upscaled-test-nest:latest"
GO_IMAGE = "localhost/upscaled-test-go:latest"


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
        with self._alone():
            self._make_room()
            volumes = [f"--volume={path}:{path}:ro" for path in _pip_folders()]
            self._build("Dockerfile", IMAGE, *volumes, BASE_IMAGE=self._make_base())

    def build_nest(self) -> None:
        """Build the image of the NestJS example on this machine's Node and on `IMAGE`."""
        node, npm = (Path(shutil.which(name) or name).resolve() for name in ("node", "npm"))
        with self._alone(), self._changed(self._make_base()) as container:
            modules = "/usr/local/lib/node_modules/npm"
            self._buildah("copy", container, str(node), "/usr/local/bin/node")
            self._buildah("copy", container, str(npm.parents[1]), modules)
            link = f"ln -s {modules}/bin/npm-cli.js /usr/local/bin/npm"
            self._buildah("run", "--isolation=chroot", container, "--", "sh", "-c", link)
            if _CERTIFICATES.exists():
                self._buildah("config", f"--env=NODE_EXTRA_CA_CERTS={_CERTIFICATES}", container)
            self._buildah("commit", container, _NODE)
            self._build("nest.Dockerfile", NEST_IMAGE, NODE_IMAGE=_NODE, UPSCALED_IMAGE=IMAGE)

    def build_go(self) -> None:
        """Build the image of the Go example on Debian's Go and on `IMAGE`."""
        with self._alone(), self._changed(self._make_base(), "golang-go") as container:
            self._buildah("commit", container, _GO)
            self._build("go.Dockerfile", GO_IMAGE, GO_IMAGE=_GO, UPSCALED_IMAGE=IMAGE)

    def _build(self, dockerfile: str, tag: str, *options: str, **arguments: str) -> None:
        ignored = ROOT / "docker" / f"{dockerfile}.dockerignore"
        self._buildah(
            "bud",
            "--isolation=chroot",
            "--format=docker",
            "--layers",
            "--jobs=2",
            *(f"--build-arg={name}={value}" for name, value in arguments.items()),
            *([f"--ignorefile={ignored}"] if ignored.exists() else []),
            *options,
            f"--file={ROOT / 'docker' / dockerfile}",
            f"--tag={tag}",
            str(ROOT),
        )

    def _make_room(self) -> None:
        """Layers of old builds are kept until the folder is too large; then all are removed."""
        used_mb = int(_run(["du", "-sm", str(self.folder)]).stdout.split()[0])
        if used_mb > _MOST_MB:
            for part in ("root", "run"):
                shutil.rmtree(self.folder / part, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One build at a time: a second process waits, and finds the layers of the first."""
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextmanager
    def tree(self, *packages: str) -> Iterator[Path]:
        """The image's files in a folder of their own, with more of Debian's packages."""
        with self._changed(IMAGE, *packages) as container:
            yield Path(self._buildah("mount", container).strip())

    @contextmanager
    def _changed(self, image: str, *packages: str) -> Iterator[str]:
        """A container of the image, for changes, with more of Debian's packages."""
        container = self._buildah("from", image).strip()
        try:
            if packages:
                names = " ".join(packages)
                install = f"apt-get update && apt-get install -y --no-install-recommends {names}"
                self._buildah(
                    "run", "--isolation=chroot", "--user=root", container, "--", "sh", "-c", install
                )
            yield container
        finally:
            self._buildah("rm", container)

    def run(self, *options: str, image: str = IMAGE, command: Sequence[str] = ()) -> list[str]:
        """The command line that runs an image as the documents say: read-only, and without any
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
            image,
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


def main() -> int:
    """Build the image, if this machine can."""
    reason = why_not()
    if reason is not None:
        print(f"no image is built: {reason}")
        return 0
    Store.in_cache().build()
    return 0


if __name__ == "__main__":
    sys.exit(main())
