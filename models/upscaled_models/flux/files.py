"""Which files a FLUX job needs, and what describes the models in them.

Under MODEL_CACHE_DIR, in ComfyUI's layout: unet/*.gguf, vae/ae.sft, clip/clip_l.safetensors,
clip/t5xxl_*.safetensors. They hold weights alone: what they are weights of is said by the
configs that come with this package, which are those of FLUX.1-dev, or by those in a folder
`configs` of the same layout under MODEL_CACHE_DIR.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled_models.catalog import Catalog, is_file
from upscaled_protocol.errors import ErrorCode, JobError

_CONFIGS = Path(__file__).with_name("configs")
# The first of these that is installed: the fp16 encoder is the original, where somebody has it.
_T5 = ("t5xxl_fp16", "t5xxl_fp8_e4m3fn")


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
        scheduler. Raises `JobError` (model_corrupt) where one's own is not usable."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        own = self.model_dir / "configs" / part / name
        path = own if is_file(own) else _CONFIGS / part / name
        try:
            fields = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise bad_config(own, error) from None
        if not isinstance(fields, dict):
            raise bad_config(own, "it is no JSON object")
        # diffusers writes what its classes are called among the fields.
        return {key: value for key, value in fields.items() if not key.startswith("_")}

    def whole_number(self, part: str, field: str, default: int | None = None) -> int:
        """A field of a part's config. Raises `JobError` (model_corrupt) where it is no number from
        0 on."""
        value = self.config(part).get(field, default)
        if type(value) is not int or value < 0:
            raise bad_config(self.model_dir / "configs" / part, f"its {field} is {value!r}")
        return value

    def noise_shift(self) -> float:
        """The scheduler's shift. Raises `JobError` (model_corrupt) where it is none."""
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
    t5 = [path for path in (_path(catalog, name, model_dir) for name in _T5) if is_file(path)]
    files = Files(
        model_dir,
        transformer,
        _path(catalog, "flux-ae", model_dir),
        _path(catalog, "clip_l", model_dir),
        t5[0] if t5 else _path(catalog, _T5[-1], model_dir),
        _path(catalog, "clip_l.tokenizer", model_dir),
        _path(catalog, "t5xxl.tokenizer", model_dir),
    )
    for path in (files.autoencoder, files.clip, files.t5):
        require(path, model_dir)
    return files


def require(path: Path, model_dir: Path) -> None:
    """Raise `JobError` (model_not_found) where a file of the set is not installed."""
    if not is_file(path):
        raise JobError(
            ErrorCode.MODEL_NOT_FOUND,
            f"the flux method needs {path.relative_to(model_dir)}, which is not installed: "
            "run `upscaled models pull flux`",
        )


def bad_config(path: Path, why: object) -> JobError:
    """The error of a config that describes no model."""
    return JobError(ErrorCode.MODEL_CORRUPT, f"{path} is not usable: {why}")


def _path(catalog: Catalog, name: str, model_dir: Path) -> Path:
    model = catalog.find(name)
    if model is None:
        raise KeyError(name)
    return model.path(model_dir)
