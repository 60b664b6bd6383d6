"""The settings of `upscaled serve`, by section. `sources.py` reads them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
)

from upscaled_http.keys import Key, parse_keys
from upscaled_http.messages import Retention
from upscaled_protocol.envelope import MAX_TIMEOUT_S, PICTURE_METHODS, Method
from upscaled_protocol.urlpolicy import HostPort, UrlPolicy
from upscaled_webhooks.signatures import check_secret

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _checked_network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        raise ValueError("needs an address or a network, as in 10.0.0.0/8") from None
    return text


def _checked_origin(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if text != "*" and (scheme not in ("http", "https") or not separator or "/" in rest):
        raise ValueError("needs an origin, as in https://app.example.com, without a path")
    return text


def _checked_host(text: str) -> str:
    try:
        return str(HostPort.parse(text))
    except ValueError:
        raise ValueError("needs host:port, as in minio:9000 or [::1]:9000") from None


def _checked_bucket(text: str) -> str:
    url = text if "://" in text else f"s3://{text}"
    if not url.startswith(("s3://", "gs://", "az://")):
        raise ValueError("needs a bucket, as in s3://pictures, gs://pictures or az://pictures")
    return url


def _checked_scale(scale: int) -> int:
    if scale not in (2, 4):
        raise ValueError("needs 2 or 4")
    return scale


Host = Annotated[str, AfterValidator(_checked_host)]

# A relative path would change its meaning with the working folder.
Folder = Annotated[Path, AfterValidator(Path.absolute)]


class Section(BaseModel):
    """Unknown keys are refused, because a misspelt limit would otherwise be no limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """The listening socket, and what a connection may do."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[Annotated[str, AfterValidator(_checked_origin)], ...] = ()
    trusted_proxies: tuple[Annotated[str, AfterValidator(_checked_network)], ...] = ()
    header_timeout_s: Seconds = 10
    upload_idle_s: Seconds = 30
    upload_timeout_s: Seconds = 300
    max_wait_s: float = Field(300, ge=0, allow_inf_nan=False)
    grace_s: Seconds = 25
    idle_exit_s: Seconds | None = Field(None, description="Without a job for this time, exit.")
    max_connections: Count = 2000

    @property
    def is_loopback(self) -> bool:
        """True if only this machine can reach the port."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


class StorageSettings(Section):
    """The data folder, and how long files and records stay in it."""

    data_dir: Folder = Field(Path("data"), validate_default=True)
    upload_dir: Folder | None = None
    output_dir: Folder | None = None
    retention: Retention = "keep"
    download_grace_s: float = Field(60, ge=0, allow_inf_nan=False)
    keep_hours: float = Field(24, ge=0, allow_inf_nan=False, description="0: without end.")
    keep_records_days: float = Field(7, gt=0, allow_inf_nan=False)
    min_free_mb: int = Field(500, ge=0)

    @property
    def uploads(self) -> Path:
        """Pictures of jobs that have not ended."""
        return self.upload_dir or self.data_dir / "uploads"

    @property
    def results(self) -> Path:
        """Pictures of completed jobs."""
        return self.output_dir or self.data_dir / "results"


class LimitSettings(Section):
    """The limits of one request, and of all together."""

    max_request_mb: Count = 100
    max_input_megapixels: float = Field(50, gt=0, allow_inf_nan=False)
    max_output_megapixels: float = Field(1000, gt=0, allow_inf_nan=False)
    max_queue: Count = 100
    rate_per_minute: int = Field(0, ge=0, description="0: no limit.")
    job_timeout_s: float = Field(7200, gt=0, le=MAX_TIMEOUT_S, allow_inf_nan=False)


class WorkerSettings(Section):
    """The daemon's options."""

    methods: tuple[Method, ...] = PICTURE_METHODS
    count: Count | None = None
    device: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    memory_limit_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    model_dir: Folder | None = None
    args: tuple[str, ...] = ()


class QueueSettings(Section):
    """A queue whose machines do the jobs. Without its URL the server has a daemon of its own."""

    url: SecretStr | None = None
    record: SecretStr | None = Field(None, description="The Redis with the ends of jobs.")
    prefix: str = ""


class PipelineSettings(Section):
    """Where `/api/images/upload` files pictures, and which of them it upscales. Without a bucket
    the route is off."""

    bucket: Annotated[str, AfterValidator(_checked_bucket)] | None = None
    threshold: float = Field(0.5, ge=0, allow_inf_nan=False)
    scale: Annotated[int, AfterValidator(_checked_scale)] = 4
    score: str = "resolution"


class DefaultSettings(Section):
    """Values for fields that a request leaves out."""

    model: str | None = None
    upscale_factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    dpi: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class AuthSettings(Section):
    """The API's keys. Without keys everyone who can reach the port may use the API."""

    keys: tuple[Key, ...] = ()
    keys_file: Folder | None = None
    allow_anonymous: bool = False

    @field_validator("keys", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return parse_keys(value) if isinstance(value, str) else value


class UrlSettings(Section):
    """The hosts that `image_url` may name."""

    allow_private: bool = False
    allow_hosts: tuple[Host, ...] = ()


class WebhookSettings(Section):
    """The hosts that a job's `webhook` may name. Without a secret no webhooks are sent."""

    secret: SecretStr | None = None
    allow_hosts: tuple[Host, ...] = ()

    @property
    def destinations(self) -> UrlPolicy:
        """The hosts that may get webhooks: the listed ones, or the public internet if none is."""
        return UrlPolicy(allow_hosts=frozenset(map(HostPort.parse, self.allow_hosts)))

    @field_validator("secret")
    @classmethod
    def _can_sign(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None:
            check_secret(secret.get_secret_value())
        return secret


class LoggingSettings(Section):
    """The access log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"
    output: Literal["stdout", "file", "both"] = "stdout"
    file_path: Folder | None = None


class FeatureSettings(Section):
    """Parts that can be switched off."""

    page: bool = True
    docs: bool = True
    metrics: bool = True


class Settings(Section):
    """All sections."""

    server: ServerSettings = ServerSettings()
    storage: StorageSettings = StorageSettings()
    limits: LimitSettings = LimitSettings()
    workers: WorkerSettings = WorkerSettings()
    queue: QueueSettings = QueueSettings()
    pipeline: PipelineSettings = PipelineSettings()
    defaults: DefaultSettings = DefaultSettings()
    auth: AuthSettings = AuthSettings()
    urls: UrlSettings = UrlSettings()
    webhooks: WebhookSettings = WebhookSettings()
    logging: LoggingSettings = LoggingSettings()
    features: FeatureSettings = FeatureSettings()
