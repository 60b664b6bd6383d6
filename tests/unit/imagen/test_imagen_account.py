"""Credentials and addresses that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from imagen_host import NOBODY
from upscaled_models.imagen.account import credentials_in_sight, find_account, sign_in
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError

pytestmark = pytest.mark.skipif(
    not is_installed("imagen"), reason="needs pip install 'upscaled[imagen]'"
)

CANARY = "canary-that-must-not-sing"
USER = {"type": "authorized_user", "client_id": "a", "client_secret": CANARY, "refresh_token": "b"}
POOL = {
    "type": "external_account",
    "audience": "//iam.googleapis.com/a",
    "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
    "token_url": "https://sts.googleapis.com/v1/token",
}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        [CANARY],
        CANARY,
        None,
        {"type": "none of them"},
        {"type": "service_account", "private_key": CANARY},
        {"type": "service_account", "client_email": "a", "token_uri": "b", "private_key": CANARY},
        {"type": "service_account", "client_email": "a", "token_uri": "b", "private_key": 5},
        USER | {"expiry": 5},
        POOL | {"credential_source": CANARY},
        POOL | {"credential_source": {"executable": 5}},
        {"type": "impersonated_service_account"},
        {"type": "impersonated_service_account", "source_credentials": USER},
    ],
    ids=lambda content: str(content)[:40],
)
def test_a_file_without_usable_credentials_is_named_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    with pytest.raises(JobError, match=r"names .*key\.json") as refused:
        sign_in(None)
    assert refused.value.code == ErrorCode.UPSTREAM_AUTH
    assert CANARY not in refused.value.message


def base_url(monkeypatch: pytest.MonkeyPatch, text: str) -> str | None:
    monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", text)
    return find_account(ImagenConfig(image_path="a.png", gcp_project_id="p")).base_url


@pytest.mark.parametrize(
    "text",
    [
        f"ftp://{CANARY}",
        CANARY,
        f"https://user:{CANARY}@host",
        f"https://host:{CANARY}",
        f"https://[{CANARY}",
        f"https:///{CANARY}",
        f"https://host/?{CANARY}",
        f"https://host/#{CANARY}",
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with pytest.raises(JobError, match="GOOGLE_VERTEX_BASE_URL must be") as refused:
        base_url(monkeypatch, text)
    assert refused.value.code == ErrorCode.INVALID_JOB
    assert CANARY not in refused.value.message


@pytest.mark.parametrize(
    "text", ["https://host", "http://127.0.0.1:80/", "HTTPS://[::1]:8443/gate/way"]
)
def test_a_base_url_may_have_a_port_and_a_path(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert base_url(monkeypatch, text) == text


def test_credentials_are_seen_without_being_read_or_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NOBODY.items():
        monkeypatch.setenv(name, value)
    assert credentials_in_sight() is None
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    own = tmp_path / "application_default_credentials.json"
    own.write_text(CANARY)
    assert credentials_in_sight() == f"gcloud's, {own}"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(own))
    assert credentials_in_sight() == f"GOOGLE_APPLICATION_CREDENTIALS, {own}"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    assert credentials_in_sight() is None
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", CANARY)
    assert credentials_in_sight() == "the token in GOOGLE_OAUTH_ACCESS_TOKEN"
