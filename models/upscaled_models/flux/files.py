"""The files that a FLUX job needs, and the configs that describe the models in them.

They lie under MODEL_CACHE_DIR in ComfyUI's layout: unet/*.gguf, vae/ae.sft (or ae.safetensors),
clip/clip_l.safetensors, clip/t5xxl_*.safetensors; the folders diffusion_models and text_encoders
are read beside unet and clip. The files hold only weights. The configs of FLUX.1-dev come with this
package; configs in a folder `configs` of the same layout under MODEL_CACHE_DIR replace them.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled_models.catalog import Catalog, folders_of, is_file
from upscaled_protocol.errors import ErrorCode, JobError

_CONFIGS = Path(__file__).with_name("configs")
# The first of these that is installed. The fp16 encoder is the original.
_T5 = ("t5xxl_fp16", "t5xxl_fp8_e4m3fn")
# The name of the default transformer, which `pull` fetches with all the others.
_ALL = "flux"


@dataclass(frozen=True)
class Part:
    """One of the files that FLUX jobs need.

    is_required: False if only some jobs need it. model: the name that `pull` takes.
    """

    name: str
    path: Path
    is_there: bool
    is_required: bool
    model: str


@dataclass(frozen=True)
class Files:
    """The files of one job. The two tokenizers may be missing: an empty prompt needs none."""

    model_dir: Path
    transformer: Path
    autoencoder: Path
    clip: Path
    t5: Path
    clip_tokenizer: Path
    t5_tokenizer: Path

    def config(self, part: str) -> dict[str, Any]:
        """A part's config: transformer, vae, text_encoder (CLIP), text_encoder_2 (T5) or
        scheduler. Raises `JobError` (model_corrupt) if the user's own config cannot be used."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        own = self.model_dir / "configs" / part / name
        path = own if is_file(own) else _CONFIGS / part / name
        try:
            fields = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise bad_config(own, error) from None
        if not isinstance(fields, dict):
            raise bad_config(own, "it is no JSON object")
        # diffusers writes the names of its classes among the fields.
        return {key: value for key, value in fields.items() if not key.startswith("_")}

    def whole_number(self, part: str, field: str, default: int | None = None) -> int:
        """A field of a part's config. Raises `JobError` (model_corrupt) if it is not a whole number
        of at least 0."""
        value = self.config(part).get(field, default)
        if type(value) is not int or value < 0:
            raise bad_config(self.model_dir / "configs" / part, f"its {field} is {value!r}")
        return value

    def noise_shift(self) -> float:
        """The scheduler's shift. Raises `JobError` (model_corrupt) if it is not above 0."""
        value = self.config("scheduler").get("shift")
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise bad_config(self.model_dir / "configs" / "scheduler", f"its shift is {value!r}")
        return float(value)


def find_files(
    catalog: Catalog, model: str, model_dir: Path, allowed_roots: Sequence[Path] = ()
) -> Files:
    """The files for a job's `model`. Raises `JobError`: model_not_found, path_not_allowed."""
    transformer = catalog.locate(model, model_dir, allowed_roots)
    if transformer.suffix != ".gguf":
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{transformer.name} is no weights file for this method: use a .gguf of FLUX.1-dev",
        )
    files = Files(
        model_dir,
        transformer,
        _path(catalog, "flux-ae", model_dir),
        _path(catalog, "clip_l", model_dir),
        _path(catalog, _t5(catalog, model_dir), model_dir),
        _path(catalog, "clip_l.tokenizer", model_dir),
        _path(catalog, "t5xxl.tokenizer", model_dir),
    )
    for path in (files.autoencoder, files.clip, files.t5):
        require(path, model_dir)
    return files


def transformers(model_dir: Path) -> list[Path]:
    """The transformers in the model folder; none if it cannot be read."""
    found: list[Path] = []
    for folder in folders_of("unet", model_dir):
        with contextlib.suppress(OSError):
            found += sorted(folder.glob("*.gguf"))
    return found


def parts(catalog: Catalog, model_dir: Path) -> list[Part]:
    """The files, each with its path, or the path at which it is looked for."""
    named = [("transformer", path, True, _ALL) for path in transformers(model_dir)]
    if not named:
        named = [("transformer", _path(catalog, _ALL, model_dir), True, _ALL)]
    t5 = _t5(catalog, model_dir)
    for name, model, is_required in (
        ("autoencoder", "flux-ae", True),
        ("CLIP text encoder", "clip_l", True),
        ("T5 text encoder", t5, True),
        ("CLIP tokenizer, for prompts", "clip_l.tokenizer", False),
        ("T5 tokenizer, for prompts", "t5xxl.tokenizer", False),
        ("first stage, unless a job names another", "4x-UltraSharp", False),
    ):
        named.append((name, _path(catalog, model, model_dir), is_required, model))
    return [Part(name, path, is_file(path), needed, model) for name, path, needed, model in named]


def what_is_missing(catalog: Catalog, model_dir: Path) -> str | None:
    """One sentence about the first file that all FLUX jobs need and that is missing, if any."""
    for part in parts(catalog, model_dir):
        if part.is_required and not part.is_there:
            return _missing(part.path, model_dir)
    return None


def require(path: Path, model_dir: Path) -> None:
    """Raise `JobError` (model_not_found) if a file of the set is not installed."""
    if not is_file(path):
        raise JobError(ErrorCode.MODEL_NOT_FOUND, _missing(path, model_dir))


def _missing(path: Path, model_dir: Path) -> str:
    return (
        f"the flux method needs {path.relative_to(model_dir)}, which is not installed: "
        "run `upscaled models pull flux`"
    )


def bad_config(path: Path, why: object) -> JobError:
    """The error of a config that describes no model. why: a reason or an exception."""
    return JobError(ErrorCode.MODEL_CORRUPT, f"{path} is not usable: {why}")


def _t5(catalog: Catalog, model_dir: Path) -> str:
    """The name of the encoder that is used."""
    there = (name for name in _T5 if is_file(_path(catalog, name, model_dir)))
    return next(there, _T5[-1])


def _path(catalog: Catalog, name: str, model_dir: Path) -> Path:
    model = catalog.find(name)
    if model is None:
        raise KeyError(name)
    return model.path(model_dir)
