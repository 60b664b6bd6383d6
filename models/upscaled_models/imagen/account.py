"""The account that pays for the calls: project, region, endpoint and credentials.

Secrets come only from the operator's environment, never from a job, because jobs are kept in
journals.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from upscaled_models.catalog import is_file
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError

DEFAULT_REGION = "us-central1"
TOKEN_VARIABLE = "GOOGLE_OAUTH_ACCESS_TOKEN"  # noqa: S105 - the name of one
KEY_FILE_VARIABLE = "GOOGLE_APPLICATION_CREDENTIALS"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# These become parts of the URL that the token is sent to. A region with a slash or a dot would name
# another host. A project may belong to a domain, as in example.com:shop.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")
_REGION = re.compile(r"[a-z0-9][a-z0-9-]*")
_MODEL = re.compile(r"[\w.@-]+", re.ASCII)
# Set on Google's machines (App Engine, Cloud Run and Functions), or to name a metadata server.
_GOOGLES_VARIABLES = ("GAE_SERVICE", "K_SERVICE", "CLOUD_RUN_JOB", "GCE_METADATA_HOST")
# RFC 6750, 2.1.
_TOKEN = re.compile(r"[\w.~+/-]+=*", re.ASCII)


@dataclass(frozen=True)
class Account:
    """The project that pays, and the endpoint. `base_url` is None for Google's own endpoint."""

    project: str
    region: str
    base_url: str | None


def find_account(config: ImagenConfig) -> Account:
    """The config's account, completed from the environment.

    Raises `JobError`: upstream_auth if there is no project, invalid_job if a name is not valid.
    """
    project = config.gcp_project_id or os.environ.get("GCP_PROJECT_ID")
    if not project:
        raise JobError(
            ErrorCode.UPSTREAM_AUTH,
            "no Google Cloud project is known: set GCP_PROJECT_ID for the daemon, or give "
            "gcp_project_id",
        )
    region = config.gcp_region or os.environ.get("GCP_REGION") or DEFAULT_REGION
    base_url = os.environ.get("GOOGLE_VERTEX_BASE_URL") or None
    for name, value, pattern in (
        ("gcp_project_id", project, _PROJECT),
        ("gcp_region", region, _REGION),
        ("model", config.model, _MODEL),
    ):
        if not pattern.fullmatch(value):
            raise JobError(ErrorCode.INVALID_JOB, f"{name} cannot be {value[:64]!r}")
    if base_url is not None and not _is_base_url(base_url):
        raise JobError(
            ErrorCode.INVALID_JOB,
            "GOOGLE_VERTEX_BASE_URL must be https:// (or http:// for a server of tests) with a "
            "host, perhaps a port and a path, and nothing else",
        )
    return Account(project, region, base_url)


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        # A user, a query or a fragment would be lost, or replace the token.
        is_bare = "@" not in url.netloc and not url.query and not url.fragment
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0 and is_bare
    except ValueError:  # no port, or no address
        return False


def credentials_in_sight() -> str | None:
    """The source of credentials, without reading any; None if there is none.

    Google's machines are recognised by their firmware's name or their services' variables. To ask
    their metadata server could take seconds on other machines.
    """
    if os.environ.get(TOKEN_VARIABLE, "").strip():
        return f"the token in {TOKEN_VARIABLE}"
    if key_file := os.environ.get(KEY_FILE_VARIABLE):
        return f"{KEY_FILE_VARIABLE}, {key_file}" if is_file(Path(key_file)) else None
    try:
        folder = Path(os.environ.get("CLOUDSDK_CONFIG") or Path("~/.config/gcloud").expanduser())
    except RuntimeError:  # no HOME
        folder = Path()
    own = folder / "application_default_credentials.json"
    if is_file(own):
        return f"gcloud's, {own}"
    if os.environ.get("NO_GCE_CHECK") == "true":  # the SDK then asks no metadata server
        return None
    if any(os.environ.get(name) for name in _GOOGLES_VARIABLES) or _is_googles_machine():
        return "this machine's service account"
    return None


def _is_googles_machine() -> bool:
    try:
        return Path("/sys/class/dmi/id/product_name").read_text("utf-8").startswith("Google")
    except (OSError, ValueError):
        return False


def sign_in(credentials: Any) -> Any:
    """These credentials with a valid token. If they are None: the operator's, which are a token or
    come from Application Default Credentials.

    May read a file, or ask Google or a metadata server, which takes seconds. Raises `JobError`
    (upstream_auth), and `GoogleAuthError` if a server could not be reached or refused.
    """
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    if credentials is None:
        credentials = _found_credentials()
    if not credentials.valid:
        try:
            credentials.refresh(Request())
        except GoogleAuthError:
            raise
        except Exception:  # noqa: BLE001 - some faults of a key file raise only here
            raise unusable() from None
    return credentials


def _found_credentials() -> Any:
    import google.auth
    from google.auth.credentials import with_scopes_if_required
    from google.oauth2.credentials import Credentials

    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if token and not _TOKEN.fullmatch(token):
        raise JobError(ErrorCode.UPSTREAM_AUTH, f"{TOKEN_VARIABLE} holds what cannot be a token")
    if token:
        return Credentials(token=token)  # type: ignore[no-untyped-call]
    try:
        # With scopes given here it would ask another server for the project, which is known.
        found = google.auth.default()[0]
        return with_scopes_if_required(found, [_SCOPE])  # type: ignore[no-untyped-call]
    except Exception:  # noqa: BLE001 - its text may quote secrets
        raise unusable() from None


def unusable() -> JobError:
    """The error of credentials that are missing or cannot be used."""
    path = os.environ.get(KEY_FILE_VARIABLE)
    return JobError(
        ErrorCode.UPSTREAM_AUTH,
        f"{KEY_FILE_VARIABLE} names {path}, which is no usable credentials file"
        if path
        else f"there are no Google credentials: set {KEY_FILE_VARIABLE} to the file of a "
        f"service account, or {TOKEN_VARIABLE} to a token, or run `gcloud auth "
        "application-default login`",
    )
