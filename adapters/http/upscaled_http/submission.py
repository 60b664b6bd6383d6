"""From a request's fields to a job: its method, its config with the server's defaults, its limits.

A form's values are texts, and a JSON body's have types. The config's model checks both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast, get_args

from upscaled_http.config import Settings
from upscaled_http.fields import (
    HIDDEN,
    JOB_FIELDS,
    MAX_LABEL,
    quoted,
    read_config,
    take_aliases,
    unknown_field,
)
from upscaled_http.messages import Retention
from upscaled_http.preferences import picture_format
from upscaled_http.problems import ProblemError, field_errors, sentence_of
from upscaled_http.records import Pixels
from upscaled_imaging.dimensions import plan_size
from upscaled_models.catalog import Catalog, default_model_dir
from upscaled_protocol.choices import DEFAULT_DPI, DEFAULT_MODEL, DEFAULT_UPSCALE_FACTOR
from upscaled_protocol.configs import (
    Config,
    EsrganConfig,
    FaceConfig,
    FakeConfig,
    FluxConfig,
    ImageConfig,
)
from upscaled_protocol.envelope import MAX_PRIORITY
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import CONFIGS, Size
from upscaled_protocol.urlpolicy import HostNotAllowedError
from upscaled_webhooks.webhookurl import host_of

DEFAULT_METHOD = "esrgan"

_METHOD_ALIASES = {"face-enhance": "face"}
_FORMATS = {"jpg": "jpeg", "tif": "tiff"}
_MAX_URL = 8192
_WHOLE = re.compile(r"[+-]?\d{1,20}", re.ASCII)
_SUFFIXES = {"jpeg": "jpg"}
# Stands for the upload. Its path is known once the job has an id.
_PLACE = "/upload"


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job without its picture. suffix: of the result's file; None if it has no file."""

    method: str
    config: dict[str, Any]
    model: Config
    suffix: str | None
    priority: int
    timeout_s: float
    label: str | None
    retention: Retention
    webhook: str | None
    image_url: str | None

    @property
    def takes_picture(self) -> bool:
        """True if its config names an input. The test partner `fake` takes none."""
        return isinstance(self.model, ImageConfig)


class SubmissionReader:
    """Reads requests, with the limits and defaults of the server's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def _catalog(self) -> Catalog:
        return Catalog.load()

    @cached_property
    def _model_dir(self) -> Path:
        return self._settings.workers.model_dir or default_model_dir()

    def read(
        self,
        fields: Mapping[str, Any],
        method: str | None,
        *,
        is_text: bool,
        has_upload: bool,
        accept: str | None = None,
    ) -> Submission:
        """The job of these fields. accept: the `Accept` of a client that waits for the picture,
        which chooses a format that the fields do not name. Raises `ProblemError`, which names the
        field."""
        values = dict(fields)
        method = self._method(values, method)
        given_as = take_aliases(values)
        job = {name: values.pop(name) for name in JOB_FIELDS if name in values}
        image_url = values.get("image_url")
        for name in HIDDEN & values.keys():
            raise unknown_field(given_as.get(name, name), method)
        if issubclass(CONFIGS[method], ImageConfig):
            _check_input(image_url, has_upload=has_upload)
            if has_upload:
                values["image_path"] = _PLACE
            self._take_defaults(method, values)
            if accept is not None and "output_format" not in values:
                values["output_format"] = picture_format(accept)
        model = read_config(method, values, given_as, is_text=is_text)
        config = model.model_dump(mode="json", exclude_unset=True)
        self._check_models(model, given_as)
        suffix = None
        if isinstance(model, ImageConfig):
            format_ = model.output_format or "png"
            suffix = _SUFFIXES.get(format_, format_)
        elif isinstance(model, FakeConfig) and model.output_text:
            suffix = "txt"
        return Submission(
            method=method,
            config=config,
            model=model,
            suffix=suffix,
            priority=_priority(job.get("priority"), is_text=is_text),
            timeout_s=self._timeout_s(job.get("timeout_s"), is_text=is_text),
            label=_label(job.get("label")),
            retention=self._retention(job.get("retention")),
            webhook=self._webhook(job.get("webhook")),
            image_url=image_url,
        )

    def planned_size(self, model: Config, size: Pixels | None) -> Pixels | None:
        """The output's size; None if it cannot be known yet. Raises `ProblemError` if it is not
        possible."""
        if size is None or not isinstance(model, ImageConfig):
            return None
        states_size = model.factor is not None or model.has_target
        if not states_size and isinstance(model, EsrganConfig) and self._is_own(model.model):
            return None  # the default factor is 1 if the model does not enlarge
        factor = model.factor or DEFAULT_UPSCALE_FACTOR
        try:
            plan = plan_size(
                model,
                Size(width=size.width, height=size.height),
                factor=factor,
                default_dpi=int(self._settings.defaults.dpi or DEFAULT_DPI),
            )
        except JobError as error:
            detail = sentence_of(error.message)
            raise ProblemError(error.code, detail, errors=field_errors(detail)) from None
        megapixels = plan.scaled.width * plan.scaled.height / 1e6
        limit = self._settings.limits.max_output_megapixels
        if megapixels > limit:
            raise ProblemError(
                ErrorCode.INPUT_TOO_LARGE,
                f"The result would have {megapixels:.1f} megapixels ({plan.scaled.width} x "
                f"{plan.scaled.height}); the limit is {limit:g}. Ask for a smaller size.",
            )
        return Pixels(plan.output.width, plan.output.height)

    def _is_own(self, name: str) -> bool:
        """True for a weights file of the operator, whose scale the worker finds out."""
        files = self._catalog.own_files(self._model_dir)
        return any(name in (file.stem, file.name) for file in files)

    # --- parts ----------------------------------------------------------------------------------

    def _method(self, values: dict[str, Any], in_path: str | None) -> str:
        in_path, in_field = (
            _METHOD_ALIASES.get(name, name) if isinstance(name, str) else name
            for name in (in_path, values.pop("method", None))
        )
        if in_path is not None and in_field not in (None, in_path):
            raise ProblemError.field(
                "method", f"The address says {in_path}, but the field method says another method."
            )
        method = in_path or in_field or DEFAULT_METHOD
        served = self._settings.workers.methods
        if method not in served or method not in CONFIGS:
            raise ProblemError.field(
                "method",
                f"There is no method {quoted(method)} here; there are {', '.join(served)}.",
                ErrorCode.UNKNOWN_METHOD,
            )
        return cast(str, method)

    def _take_defaults(self, method: str, values: dict[str, Any]) -> None:
        defaults = self._settings.defaults
        if values.get("tile_size") in (0, "0"):
            del values["tile_size"]
        format_ = values.get("output_format")
        if isinstance(format_, str):
            values["output_format"] = _FORMATS.get(format_.lower(), format_.lower())
        factor = values.get("upscale_factor", defaults.upscale_factor)
        if method == "face" and not {"upscale_factor", "upscale_model"} & {*values}:
            factor = None  # the picture keeps its size
        if factor is not None:
            values["upscale_factor"] = _imagen_factor(factor) if method == "imagen" else factor
        if method == "esrgan" and defaults.model and not {"model", "upscale_model"} & {*values}:
            values["model"] = defaults.model
        if defaults.dpi and {"target_width_inches", "target_height_inches"} & {*values}:
            values.setdefault("target_dpi", int(defaults.dpi))

    def _check_models(self, model: Config, given_as: Mapping[str, str]) -> None:
        """Refuse a path: by a path a client could make the server open any file."""
        if not isinstance(model, EsrganConfig | FluxConfig | FaceConfig):
            return
        # If only `upscale_model` is given, ESRGAN's `model` is a copy of it.
        for field in ("upscale_model", "model", "pre_model", "face_model"):
            name = getattr(model, field, None)
            if name is None or field not in model.model_fields_set:
                continue
            if isinstance(model, EsrganConfig) and field != "pre_model" and name == DEFAULT_MODEL:
                continue
            given = given_as.get(field, field)
            if Path(name).name != name or "\\" in name or "\0" in name or name.startswith("."):
                text = f"{given} is the name of a model, as `GET /api/models` lists them."
                raise ProblemError.field(given, text, ErrorCode.MODEL_NOT_FOUND)
            try:
                self._catalog.locate(name, self._model_dir, (Path("/nowhere"),))
            except JobError as error:
                is_outside = error.code == ErrorCode.PATH_NOT_ALLOWED
                text = f"there is no model {quoted(name)}" if is_outside else error.message
                raise ProblemError.field(
                    given,
                    f"{sentence_of(text)} `GET /api/models` lists the models.",
                    ErrorCode.MODEL_NOT_FOUND,
                ) from None

    def _timeout_s(self, value: Any, *, is_text: bool) -> float:
        limit = self._settings.limits.job_timeout_s
        if value is None:
            return limit
        try:
            number = float(value) if is_text or type(value) in (int, float) else 0.0
        except (ValueError, OverflowError):
            number = 0.0
        if not 0 < number <= limit:
            raise ProblemError.field(
                "timeout_s",
                f"timeout_s is a number of seconds above 0, at most {limit:g}.",
                ErrorCode.INVALID_JOB,
            )
        return number

    def _webhook(self, value: Any) -> str | None:
        """Check the URL, without a look-up of its host."""
        if value is None:
            return None
        webhooks = self._settings.webhooks
        if webhooks.secret is None:
            text = "This server sends no webhooks, because its webhooks.secret is not set."
            raise ProblemError.field("webhook", text, ErrorCode.INVALID_JOB)
        try:
            webhooks.destinations.check(*host_of(value if isinstance(value, str) else ""))
        except ValueError as error:
            raise ProblemError.field("webhook", f"{error}.", ErrorCode.INVALID_JOB) from None
        except HostNotAllowedError as error:
            text = f"webhook: {error}."
            raise ProblemError.field("webhook", text, ErrorCode.PATH_NOT_ALLOWED) from None
        return cast(str, value)

    def _retention(self, value: Any) -> Retention:
        if value is None:
            return self._settings.storage.retention
        if value not in get_args(Retention):
            text = f"retention is {' or '.join(get_args(Retention))}."
            raise ProblemError.field("retention", text, ErrorCode.INVALID_JOB)
        return cast(Retention, value)


def _check_input(image_url: Any, *, has_upload: bool) -> None:
    if has_upload and image_url is not None:
        raise ProblemError.field("image_url", "Give a picture or image_url, not both.")
    if not has_upload and image_url is None:
        raise ProblemError.field("image", "Give a picture: a file `image`, or `image_url`.")
    if has_upload:
        return
    is_url = isinstance(image_url, str) and image_url[:8].lower().startswith(
        ("http://", "https://")
    )
    if not is_url or len(image_url) > _MAX_URL:
        text = f"image_url is an http or https address of at most {_MAX_URL} characters."
        raise ProblemError.field("image_url", text, ErrorCode.INVALID_JOB)


def _imagen_factor(factor: Any) -> Any:
    """Imagen's factor as its text: `x2` for 2. The config refuses what is no number."""
    try:
        return f"x{float(factor):g}"
    except (TypeError, ValueError, OverflowError):
        return factor


def _priority(value: Any, *, is_text: bool) -> int:
    if value is None:
        return 0
    number = int(value) if is_text and _WHOLE.fullmatch(value) else value
    if type(number) is not int or abs(number) > MAX_PRIORITY:
        text = f"priority is a whole number from {-MAX_PRIORITY} to {MAX_PRIORITY}, higher first."
        raise ProblemError.field("priority", text, ErrorCode.INVALID_JOB)
    return number


def _label(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MAX_LABEL or not value.isprintable():
        text = f"label is a text of at most {MAX_LABEL} characters, without control characters."
        raise ProblemError.field("label", text, ErrorCode.INVALID_JOB)
    return value
