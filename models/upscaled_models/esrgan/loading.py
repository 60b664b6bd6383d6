"""From a weights file to a network. Code in the file never runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch.nn import init
from torch.overrides import TorchFunctionMode

from upscaled_models.esrgan import morearchitectures
from upscaled_models.esrgan.architectures import ImageModelDescriptor, UnsupportedModelError
from upscaled_models.esrgan.colour import (
    COLOUR,
    FOLLOWS_LUMA,
    SMOOTH_FOLLOWS_LUMA,
    ColourFollowsLuma,
)
from upscaled_models.esrgan.foreign import what_it_is
from upscaled_models.esrgan.weightsfile import read_metadata, read_weights, useless
from upscaled_protocol.errors import ErrorCode, JobError

# The network's module, its scale, its channels and the sizes of input that it takes.
Descriptor: TypeAlias = ImageModelDescriptor

# Names under which training programs keep an upscaling network beside others. Weights that were
# averaged over the training are preferred.
_PLACES = ("params_ema", "g_ema", "net_g_ema", "ema", "params", "generator", "net_g", "netG", "gen",
           "network_g", "network", "model_g", "model", "net")  # fmt: skip

# What spandrel calls the networks that enlarge, and those that restore at scale 1.
_PURPOSES = ("SR", "Restoration")
_FOREIGN_PURPOSES = {
    "FaceSR": 'is for faces: send it with "method": "face"',
    "Inpainting": "is for inpainting: choose a model that upscales or restores whole pictures",
}

# A layer of zeros alone adds nothing, so no network keeps many of them. They make a picture black.
_MOST_EMPTY = 0.1

_RANDOM_WEIGHTS = (init.kaiming_normal_, init.kaiming_uniform_, init.uniform_, init.normal_)


def load_descriptor(path: Path) -> Descriptor:
    """Load a network on the CPU in float32, in evaluation mode: one that upscales pictures, or one
    that restores them at their own size, such as a denoiser (scale 1).

    Raises `JobError`: model_corrupt (truncated, altered, or of no known architecture),
    model_unsafe (it would run code), model_not_found (no such file), or invalid_job (a network for
    faces or for inpainting, or weights for other programs).
    """
    model = as_picture_network(path, read_model(path))
    is_compact = model.architecture.id == "Compact" and model.input_channels == 3
    colour = read_metadata(path).get(COLOUR) if is_compact else None
    if colour in (FOLLOWS_LUMA, SMOOTH_FOLLOWS_LUMA):
        smooth = colour == SMOOTH_FOLLOWS_LUMA
        model._model = ColourFollowsLuma(model.model, model.scale, smooth=smooth)
    return model


def load_face_descriptor(path: Path) -> Descriptor:
    """Load a network that restores faces, as `load_descriptor` loads one for whole pictures.

    Raises the same errors, invalid_job if the network does not restore faces.
    """
    return as_face_network(path, read_model(path))


def read_model(path: Path) -> Any:
    """The network in a file, whatever it is for. Raises `JobError`, as `load_descriptor`."""
    return _model(path, read_weights(path))


def as_picture_network(path: Path, model: Any) -> Descriptor:
    """The model of that file, if it upscales or restores whole pictures. Raises `JobError`."""
    if not isinstance(model, ImageModelDescriptor) or model.purpose not in _PURPOSES:
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{path.name} ({model.architecture.name}) {_FOREIGN_PURPOSES[model.purpose]}",
        )
    channels = (model.input_channels, model.output_channels)
    if channels not in ((3, 3), (1, 1)):
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{path.name} takes {channels[0]} channels and gives {channels[1]}: "
            "choose a model for RGB or for grayscale",
        )
    _require_whole_windows(model)
    return _for_inference(path, model)


def _require_whole_windows(model: Descriptor) -> None:
    """Have pictures mirrored to whole windows, if the network does that wrongly.

    Swin2SR for compressed pictures adds the enlarged input. It pads the input first, and enlarges
    all of it to the size of the result without the padding, so the two do not fit.
    """
    network: Any = model.model
    if model.architecture.id == "Swin2SR" and network.upsampler == "pixelshuffle_aux":
        sizes = replace(model.size_requirements, multiple_of=network.window_size)
        model.size_requirements = sizes


def as_face_network(path: Path, model: Any) -> Descriptor:
    """The model of that file, if it restores faces. Raises `JobError`."""
    if not isinstance(model, ImageModelDescriptor) or model.purpose != "FaceSR":
        raise JobError(
            ErrorCode.INVALID_JOB,
            f"{path.name} ({model.architecture.name}) does not restore faces: "
            "choose GFPGANv1.4, GFPGANv1.3, RestoreFormer or CodeFormer",
        )
    return _for_inference(path, model)


def _for_inference(path: Path, model: Descriptor) -> Descriptor:
    if not _are_finite(model.model.state_dict().values()):
        raise useless(path, "its weights hold numbers that are not finite; fetch the file again")
    if _share_of_empty(model.model.parameters()) > _MOST_EMPTY:
        raise useless(
            path, "whole layers hold only zeros, as after a download that was cut; fetch it again"
        )
    model.eval().float()
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    return model


def _model(path: Path, weights: dict[Any, Any]) -> Any:
    """The network that a known architecture builds from the weights, or from a part of them."""
    for candidate in _candidates(weights):
        extra = morearchitectures.architecture_of(candidate)
        if extra is not None and not morearchitectures.is_installed():
            raise useless(path, morearchitectures.how_to_load(extra))
        try:
            with _NoRandomWeights():
                model = morearchitectures.load(candidate)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except UnsupportedModelError:
            continue
        except Exception as error:  # an architecture may fail anywhere in foreign weights
            if kind := what_it_is(weights):
                raise useless(path, kind) from error
            raise useless(
                path, "its weights do not fit their architecture; fetch the file again"
            ) from error
        if _are_whole_numbers(candidate):
            raise useless(
                path,
                "its weights are no floats but whole numbers: get the same model in fp16 or fp32",
            )
        return model
    kind = what_it_is(weights) or (
        "its architecture is not known: choose a super-resolution model that spandrel knows"
    )
    raise useless(path, kind)


class _NoRandomWeights(TorchFunctionMode):
    """Skips the random initialisation of new layers: it would take as long as to read the file, and
    the file replaces all of these weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in _RANDOM_WEIGHTS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _are_finite(weights: Iterable[torch.Tensor]) -> bool:
    numbers = [each for each in weights if each.is_floating_point()]
    if not numbers:
        return True
    # A sum is not finite if one of its terms is not, so one pass checks all.
    sums = torch.stack([each.sum(dtype=torch.float32) for each in numbers])
    # A sum of finite numbers may overflow too.
    return bool(sums.isfinite().all()) or all(bool(each.isfinite().all()) for each in numbers)


def _share_of_empty(weights: Iterable[torch.Tensor]) -> float:
    """The share of the numbers of convolutions and other matrices that are in matrices of zeros."""
    matrices = [each for each in weights if each.ndim > 1]
    empty = sum(each.numel() for each in matrices if not each.any())
    return empty / max(1, sum(each.numel() for each in matrices))


def _are_whole_numbers(weights: dict[Any, Any]) -> bool:
    """True if a layer has other numbers than floats. They would be taken as floats, without their
    scale."""
    return any(
        isinstance(value, torch.Tensor) and not value.is_floating_point()
        for name, value in weights.items()
        if isinstance(name, str) and name.endswith((".weight", ".bias"))
    )


def _candidates(weights: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """The weights, then the parts of them that may be the network."""
    yield weights
    inner = weights.get("state_dict")
    for outer in (weights, inner) if isinstance(inner, dict) else (weights,):
        for place in _PLACES:
            nested = outer.get(place)
            if isinstance(nested, dict):
                yield nested
            prefix = place + "."
            named = {
                name.removeprefix(prefix): value
                for name, value in outer.items()
                if isinstance(name, str) and name.startswith(prefix)
            }
            if named:
                yield named
