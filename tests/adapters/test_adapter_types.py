"""What the adapters have of the protocol: generated types, every code, the release."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from upscaled.errors import FAMILIES, UpscaledError, error_of
from upscaled.protocol import ERROR_CODES
from upscaled_protocol.errors import MEANINGS, ErrorCode
from upscaled_protocol.version import VERSION

ROOT = Path(__file__).parents[2]
ADAPTERS = ROOT / "adapters"
SCHEMA = Path("protocol/schema")
OPENAPI = Path("adapters/http/openapi.json")
GENERATED = [
    Path("adapters/node/src/protocol.ts"),
    Path("adapters/go/protocol.go"),
    Path("adapters/python/upscaled/protocol.py"),
]
HTTP_GENERATED = [Path("adapters/node/src/http/api.ts"), Path("adapters/go/http/api.go")]


def generate(root: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the generator of that checkout."""
    command = [sys.executable, str(root / "adapters" / "generate"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the generator, of what it reads and of what it writes."""
    sources = [path.relative_to(ROOT) for path in (ROOT / "adapters" / "generate").glob("*.py")]
    schemas = [path.relative_to(ROOT) for path in (ROOT / SCHEMA).iterdir()]
    for path in [*sources, *schemas, OPENAPI, *GENERATED, *HTTP_GENERATED]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes((ROOT / path).read_bytes())
    return tmp_path


def test_the_committed_types_are_what_the_schemas_generate() -> None:
    check = generate(ROOT, "--check")
    assert check.returncode == 0, check.stderr


def test_types_are_stale_when_a_schema_changes(checkout: Path) -> None:
    errors, openapi = checkout / SCHEMA / "errors.json", checkout / OPENAPI
    document = json.loads(errors.read_text())
    document["codes"]["too_sleepy"] = {"retryable": True, "meaning": "it is late"}
    errors.write_text(json.dumps(document))
    document = json.loads(openapi.read_text())
    mood = {"anyOf": [{"enum": ["good"], "type": "string"}, {"type": "null"}]}
    document["components"]["schemas"]["Job"]["properties"]["mood"] = mood
    openapi.write_text(json.dumps(document))

    check = generate(checkout, "--check")
    assert check.returncode == 1
    assert all(str(checkout / path) in check.stderr for path in GENERATED + HTTP_GENERATED)

    assert generate(checkout).returncode == 0
    assert generate(checkout, "--check").returncode == 0
    typescript, go, python = ((checkout / path).read_text() for path in GENERATED)
    assert "too_sleepy: { retryable: true }" in typescript
    assert 'CodeTooSleepy Code = "too_sleepy"' in go
    assert '"too_sleepy": True,' in python
    typescript, go = ((checkout / path).read_text() for path in HTTP_GENERATED)
    assert 'mood?: "good" | (string & {});' in typescript
    assert 'Mood string `json:"mood,omitempty"`' in " ".join(go.split())


def test_the_openapi_document_and_the_collection_are_what_the_server_answers() -> None:
    command = [sys.executable, "-m", "upscaled_http.schema", str(ADAPTERS / "http"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stderr


def test_every_code_has_an_exception_of_its_family_and_says_whether_to_try_again() -> None:
    assert set(FAMILIES) == set(ERROR_CODES) == set(ErrorCode)
    for code in ErrorCode:
        retryable = MEANINGS[code].retryable
        error = error_of({"code": code, "error": "why", "retryable": retryable, "job_id": "7"})
        assert type(error) is FAMILIES[code] is not UpscaledError
        assert (error.code, error.retryable, error.job_id) == (code, retryable, "7")
        assert str(error) == "why"
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), again.code, again.job_id) == (type(error), code, "7")


def test_a_code_of_a_later_daemon_goes_by_retryable() -> None:
    error = error_of({"code": "too_sleepy", "error": "it is late", "retryable": True})
    assert type(error) is UpscaledError
    assert (error.code, error.retryable) == ("too_sleepy", True)


def test_the_package_has_the_release_of_the_daemon() -> None:
    assert json.loads((ADAPTERS / "node" / "package.json").read_text())["version"] == VERSION
