"""What the adapters have of the protocol: generated types, every code, the release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from upscaled_protocol.version import VERSION

ADAPTERS = Path(__file__).parents[2] / "adapters"
GENERATED = [Path("node/src/protocol.ts"), Path("go/protocol.go")]


def generate(adapters: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the generator of that folder."""
    command = [sys.executable, str(adapters / "generate.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_committed_types_are_what_the_schema_generates() -> None:
    check = generate(ADAPTERS, "--check")
    assert check.returncode == 0, check.stderr


def test_types_are_stale_when_the_schema_changes(tmp_path: Path) -> None:
    for path in [Path("generate.py"), *GENERATED]:
        (tmp_path / "adapters" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adapters" / path).write_bytes((ADAPTERS / path).read_bytes())
    schema = tmp_path / "protocol" / "schema"
    schema.mkdir(parents=True)
    for source in (ADAPTERS.parent / "protocol" / "schema").iterdir():
        document = json.loads(source.read_text())
        if source.name == "errors.json":
            document["codes"]["too_sleepy"] = {"retryable": True, "meaning": "it is late"}
        (schema / source.name).write_text(json.dumps(document))
    assert generate(tmp_path / "adapters", "--check").returncode == 1
    assert generate(tmp_path / "adapters").returncode == 0
    assert generate(tmp_path / "adapters", "--check").returncode == 0
    typescript, go = ((tmp_path / "adapters" / path).read_text() for path in GENERATED)
    assert "too_sleepy: { retryable: true }" in typescript
    assert 'CodeTooSleepy Code = "too_sleepy"' in go


def test_the_package_has_the_release_of_the_daemon() -> None:
    assert json.loads((ADAPTERS / "node" / "package.json").read_text())["version"] == VERSION
