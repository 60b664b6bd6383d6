"""From a weights file to a network, without ever running code that the file brings along."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, TypeAlias

import safetensors
import safetensors.torch
import torch

from upscaled_models.esrgan.architectures import (
    MAIN_REGISTRY,
    ImageModelDescriptor,
    UnsupportedModelError,
)
from upscaled_protocol.errors import ErrorCode, JobError

# The network's module, its scale, its channels and what it asks of its input's size.
Descriptor: TypeAlias = ImageModelDescriptor

_PICKLED = (".pth", ".pt", ".ckpt")
_SAFE = (".safetensors", ".sft")


def load_descriptor(path: Path) -> Descriptor:
    """Load an upscaling network on the CPU in float32, in evaluation mode.

    Raises `JobError`: model_corrupt (truncated, altered, or of no known architecture),
    model_unsafe (a pickle that wants more than tensors), model_not_found (no such file), or
    invalid_job (a network that does not upscale pictures).
    """
    weights = _read(path)
    try:
        model = MAIN_REGISTRY.load(weights)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except UnsupportedModelError:
        raise _corrupt(path, "its architecture is not known") from None
    except Exception as error:  # whatever an architecture trips over in foreign weights
        raise _corrupt(path, "its weights do not fit their architecture") from error
    # Some architectures say "SR" of any scale.
    if not isinstance(model, ImageModelDescriptor) or model.purpose != "SR" or model.scale < 2:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{path.name} ({model.architecture.name}) does not upscale pictures: "
            "choose a super-resolution model",
        )
    channels = (model.input_channels, model.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{path.name} takes {channels[0]} channels and gives {channels[1]}: "
            "choose a model for RGB or for grayscale",
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.model.state_dict().values()):
        raise _corrupt(path, "its weights hold numbers that are not finite")
    model.eval().float()
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    return model


def _read(path: Path) -> dict[str, Any]:
    suffix = path.suffix.lower()
    try:
        if suffix in _SAFE:
            return safetensors.torch.load_file(path)
        if suffix not in _PICKLED:
            raise JobError(
                ErrorCode.INVALID_JOB,
                f"{path.name} is no weights file for this method: use .safetensors or .pth",
            )
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise JobError(ErrorCode.MODEL_NOT_FOUND, f"there is no weights file at {path}") from None
    except (JobError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, error) from None
    except (safetensors.SafetensorError, RuntimeError, ValueError, OSError, EOFError) as error:
        if "TorchScript" in str(error):
            raise _unsafe(path) from None
        raise _corrupt(path, "it is truncated or altered") from error
    except Exception as error:  # torch reads a foreign file as far as it can, then trips anywhere
        raise _corrupt(path, "it is truncated or altered") from error
    if not isinstance(weights, dict):
        raise _corrupt(path, "it holds no named weights")
    return weights


def _unpickling_error(path: Path, error: pickle.UnpicklingError) -> JobError:
    # torch names what the pickle wanted ("Unsupported global: GLOBAL posix.system ..."); bytes
    # that are no pickle at all meet "Unsupported operand".
    text = str(error)
    return (
        _unsafe(path)
        if "GLOBAL" in text or "unrecognized function" in text
        else _corrupt(path, "it is truncated or altered")
    )


def _unsafe(path: Path) -> JobError:
    return JobError(
        ErrorCode.MODEL_UNSAFE,
        f"{path.name} would run code when loaded and was refused: "
        "get the same model as .safetensors",
    )


def _corrupt(path: Path, why: str) -> JobError:
    return JobError(
        ErrorCode.MODEL_CORRUPT, f"{path.name} is not usable: {why}; fetch the file again"
    )
