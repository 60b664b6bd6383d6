"""Reads the settings: from flags, else from the environment, else from a YAML file.

Each fault is a line `SOURCE: section.key: reason`, and one run reports all faults. No line shows a
secret.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from upscaled_http.config import AuthSettings, PipelineSettings, Settings
from upscaled_http.keys import Key, check_names, parse_keys
from upscaled_models.catalog import Catalog, default_model_dir
from upscaled_protocol.choices import DEFAULT_MODEL

PREFIX = "UPSCALED_"

# Names that other systems use for the same settings. Our own names win.
OTHER_NAMES = {
    "PORT": "server.port",
    "UPLOAD_DIR": "storage.upload_dir",
    "OUTPUT_DIR": "storage.output_dir",
    "MAX_CONCURRENT_JOBS": "workers.count",
    "MODEL_CACHE_DIR": "workers.model_dir",
    "UPSCALED_METHODS": "workers.methods",
    "DEFAULT_UPSCALE_FACTOR": "defaults.upscale_factor",
    "DEFAULT_DPI": "defaults.dpi",
    "S3_BUCKET": "pipeline.bucket",
    "QUALITY_THRESHOLD": "pipeline.threshold",
    "UPSCALE_SCALE": "pipeline.scale",
}

# The daemon reads these. It inherits the environment.
_OF_THE_DAEMON = frozenset({"UPSCALED_METRICS_ADDRESS"})

# A secret that has its own parser.
_API_KEYS = "auth.keys"


class ConfigError(Exception):
    """Raised if the settings cannot be used. One line per fault."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class Given(NamedTuple):
    """A value, and its source."""

    source: str
    value: Any


def load(
    environ: Mapping[str, str],
    file: Path | None = None,
    flags: Mapping[str, Given] | None = None,
) -> Settings:
    """The settings. flags: by their key, as in `server.port`. Raises `ConfigError`."""
    faults: list[str] = []
    given = _of_file(file, faults) if file is not None else {}
    given |= _of_environ(environ, faults)
    given |= flags or {}
    sections: dict[str, BaseModel] = {}
    for name, section in Settings.model_fields.items():
        model = section.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        values = {
            key: _split(given[f"{name}.{key}"].value, field)
            for key, field in model.model_fields.items()
            if f"{name}.{key}" in given
        }
        try:
            sections[name] = model.model_validate(values)
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                key = str(fault["loc"][0]) if fault["loc"] else ""
                path = f"{name}.{key}" if key else name
                source = given[path].source if path in given else "settings"
                is_secret = key in model.model_fields and _is_secret(path, model.model_fields[key])
                faults.append(f"{source}: {path}: {_reason(fault, is_secret)}")
    if faults:
        raise ConfigError(faults)
    settings = Settings.model_validate(sections)
    return _checked(_with_keys_file(settings, given), given)


def printed(settings: Settings) -> str:
    """All settings as YAML. Secrets are shown as `***`."""
    values = settings.model_dump(mode="json")
    values["auth"]["keys"] = [f"{key.name}:***" for key in settings.auth.keys]
    return yaml.safe_dump(values, sort_keys=False)


# --- the YAML file ------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice. PyYAML would take the last value."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"`{key_node.value}` is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def _of_file(file: Path, faults: list[str]) -> dict[str, Given]:
    content = _read_file(file, faults) or {}
    found: dict[str, Given] = {}
    if not isinstance(content, dict):
        faults.append(f"{file}: needs sections at its top, as in `server:`")
        return {}
    for section, values in content.items():
        if section not in Settings.model_fields:
            faults.append(f"{file}: {section}: there is no such section; {_sections()}")
        elif not isinstance(values or {}, dict):
            faults.append(f"{file}: {section}: needs keys below it")
        else:
            found |= _of_section(file, section, values or {}, faults)
    return found


def _of_section(
    file: Path, section: str, values: Mapping[Any, Any], faults: list[str]
) -> dict[str, Given]:
    found: dict[str, Given] = {}
    for key, value in values.items():
        path = f"{section}.{key}"
        field = _fields(section).get(str(key))
        if field is None:
            faults.append(f"{file}: {path}: there is no such key; {_keys(section)}")
        elif value is None:
            continue
        elif _is_secret(path, field):
            variable = _variable(path)
            faults.append(
                f"{file}: {path}: secrets do not belong in this file; use {variable} or "
                f"{variable}_FILE"
            )
        else:
            found[path] = Given(str(file), value)
    return found


def _read_file(file: Path, faults: list[str]) -> Any:
    try:
        return yaml.load(file.read_text("utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        faults.append(f"{file}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{file}: is not UTF-8")
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        faults.append(f"{file}{line}: {error.problem}")
    except yaml.YAMLError as error:
        faults.append(f"{file}: {error}")
    return None


# --- the environment ----------------------------------------------------------------------------


def _of_environ(environ: Mapping[str, str], faults: list[str]) -> dict[str, Given]:
    """An empty variable counts as unset: compose files write `${NAME:-}`."""
    found = {
        path: Given(name, environ[name]) for name, path in OTHER_NAMES.items() if environ.get(name)
    }
    known = set(OTHER_NAMES) | _OF_THE_DAEMON
    for section in Settings.model_fields:
        for key, field in _fields(section).items():
            path = f"{section}.{key}"
            name = _variable(path)
            known.add(name)
            if environ.get(name):
                found[path] = Given(name, environ[name])
            # The file of `auth.keys` is the setting `auth.keys_file`.
            if _is_secret(path, field) and path != _API_KEYS:
                known.add(f"{name}_FILE")
                if environ.get(f"{name}_FILE"):
                    _read_secret(f"{name}_FILE", environ, path, found, faults)
    faults += [
        f"{name}: there is no such setting; `upscaled serve --print-config` shows all"
        for name in sorted(environ)
        if name.startswith(PREFIX) and name not in known
    ]
    return found


def _read_secret(
    name: str,
    environ: Mapping[str, str],
    path: str,
    found: dict[str, Given],
    faults: list[str],
) -> None:
    if path in found:
        faults.append(f"{name}: {path}: is given by {found[path].source} too; remove one")
        return
    try:
        text = Path(environ[name]).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{name}: {path}: {environ[name]} cannot be read: {_why(error)}")
    else:
        found[path] = Given(name, text)


# --- checks across keys -------------------------------------------------------------------------


def _with_keys_file(settings: Settings, given: Mapping[str, Given]) -> Settings:
    """The settings with the keys of `auth.keys_file` beside those of the environment."""
    file = settings.auth.keys_file
    if file is None:
        return settings
    source = given["auth.keys_file"].source
    try:
        keys = check_names((*settings.auth.keys, *parse_keys(file.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        raise ConfigError([f"{source}: auth.keys_file: {file}: {_why(error)}"]) from None
    if not keys:
        raise ConfigError([f"{source}: auth.keys_file: {file}: has no key"])
    return _with_auth(settings, keys)


def _with_auth(settings: Settings, keys: tuple[Key, ...]) -> Settings:
    auth: AuthSettings = settings.auth.model_copy(update={"keys": keys})
    return settings.model_copy(update={"auth": auth})


def _checked(settings: Settings, given: Mapping[str, Given]) -> Settings:
    faults = []
    server, auth, logging = settings.server, settings.auth, settings.logging
    if not (server.is_loopback or auth.keys or auth.allow_anonymous):
        source = given["server.host"].source
        faults.append(
            f"{source}: server.host: other machines can reach {server.host}, and no keys are set. "
            "Make one with `upscaled serve --new-key NAME`, or set auth.allow_anonymous"
        )
    if logging.output != "stdout" and logging.file_path is None:
        source = given["logging.output"].source
        faults.append(f"{source}: logging.output: `{logging.output}` needs logging.file_path too")
    if (model := settings.defaults.model) is not None and not _is_known(model, settings):
        source = given["defaults.model"].source
        faults.append(
            f"{source}: defaults.model: no esrgan model is called `{model}`; `upscaled models "
            "list` shows them"
        )
    faults += _pipeline_faults(settings.pipeline, given)
    if faults:
        raise ConfigError(faults)
    return settings


def _pipeline_faults(pipeline: PipelineSettings, given: Mapping[str, Given]) -> list[str]:
    if pipeline.bucket is None:
        return []
    from upscaled_queue.pipeline.bucket import Bucket
    from upscaled_queue.pipeline.scores import find_score

    faults = []
    where = f"{given['pipeline.bucket'].source}: pipeline.bucket"
    try:
        Bucket(pipeline.bucket)
    except ValueError as error:
        faults.append(f"{where}: {error}")
    except ImportError:
        faults.append(f"{where}: needs the extra [storage]: pip install 'upscaled[storage]'")
    try:
        find_score(pipeline.score)
    except ValueError as error:
        faults.append(f"{given['pipeline.score'].source}: pipeline.score: {error}")
    return faults


def _is_known(model: str, settings: Settings) -> bool:
    if model == DEFAULT_MODEL:
        return True
    catalog = Catalog.load()
    entry = catalog.find(model)
    if entry is not None:
        return entry.method == "esrgan"
    own = catalog.own_files(settings.workers.model_dir or default_model_dir())
    return model in {file.stem for file in own}


# --- names --------------------------------------------------------------------------------------


def _fields(section: str) -> Mapping[str, FieldInfo]:
    model = Settings.model_fields[section].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model.model_fields


def _variable(path: str) -> str:
    return PREFIX + path.replace(".", "_").upper()


def _is_secret(path: str, field: FieldInfo) -> bool:
    types = (field.annotation, *typing.get_args(field.annotation))
    return path == _API_KEYS or SecretStr in types


def _split(value: Any, field: FieldInfo) -> Any:
    """Split a text with commas if the field is a list. Keys have their own parser."""
    is_list = typing.get_origin(field.annotation) is tuple
    if is_list and isinstance(value, str) and Key not in typing.get_args(field.annotation):
        return [item for item in map(str.strip, value.split(",")) if item]
    return value


def _reason(fault: Any, is_secret: bool) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    reason = message[0].lower() + message[1:]
    return reason if is_secret else f"{reason}; it is {fault['input']!r}"


def _sections() -> str:
    return f"the sections are {', '.join(Settings.model_fields)}"


def _keys(section: str) -> str:
    return f"the keys of {section} are {', '.join(_fields(section))}"


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
