"""What the adapters have of the protocol: generated types, every code, the release."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

from upscaled.errors import FAMILIES, UpscaledError, error_of
from upscaled.protocol import ERROR_CODES
from upscaled_protocol.errors import MEANINGS, ErrorCode
from upscaled_protocol.version import VERSION

ADAPTERS = Path(__file__).parents[2] / "adapters"
HTTP_GENERATED = [Path("node/src/http/api.ts"), Path("go/http/api.go")]
GENERATED = [
    Path("node/src/protocol.ts"),
    Path("go/protocol.go"),
    Path("python/upscaled/protocol.py"),
]


def generate(
    adapters: Path, *options: str, name: str = "generate.py"
) -> subprocess.CompletedProcess[str]:
    """Run the generator of that folder."""
    command = [sys.executable, str(adapters / name), *options]
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
    typescript, go, python = ((tmp_path / "adapters" / path).read_text() for path in GENERATED)
    assert "too_sleepy: { retryable: true }" in typescript
    assert 'CodeTooSleepy Code = "too_sleepy"' in go
    assert '"too_sleepy": True,' in python


def test_the_openapi_document_and_the_collection_are_what_the_server_answers() -> None:
    command = [sys.executable, "-m", "upscaled_http.schema", str(ADAPTERS / "http"), "--check"]
    check = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert check.returncode == 0, check.stderr


def test_the_http_clients_types_are_what_the_openapi_document_generates(tmp_path: Path) -> None:
    check = generate(ADAPTERS, "--check", name="generate_http.py")
    assert check.returncode == 0, check.stderr
    copied = [Path("generate.py"), Path("generate_http.py"), Path("http/openapi.json")]
    schemas = [Path(f"../protocol/schema/{name}.json") for name in ("host", "worker", "errors")]
    for path in [*copied, *schemas, *HTTP_GENERATED]:
        (tmp_path / "adapters" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "adapters" / path).write_bytes((ADAPTERS / path).read_bytes())
    openapi = tmp_path / "adapters" / "http" / "openapi.json"
    document = json.loads(openapi.read_text())
    mood = {"anyOf": [{"enum": ["good"], "type": "string"}, {"type": "null"}]}
    document["components"]["schemas"]["Job"]["properties"]["mood"] = mood
    openapi.write_text(json.dumps(document))
    assert generate(tmp_path / "adapters", "--check", name="generate_http.py").returncode == 1
    assert generate(tmp_path / "adapters", name="generate_http.py").returncode == 0
    typescript, go = ((tmp_path / "adapters" / path).read_text() for path in HTTP_GENERATED)
    assert 'mood?: "good" | (string & {});' in typescript
    assert 'Mood string `json:"mood,omitempty"`' in " ".join(go.split())


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
