"""spandrel, the home of the architectures; to be imported from here, so that it can be."""

from upscaled_models.torchparts import settle_distributed_tensors
from upscaled_models.torchvision_shim import import_torchvision

# spandrel imports it.
import_torchvision()
# The memory and the operations of a network are found with subclasses of `Tensor`.
settle_distributed_tensors()

from spandrel import (  # noqa: E402
    MAIN_REGISTRY,
    ImageModelDescriptor,
    ModelTiling,
    UnsupportedModelError,
)

__all__ = ["MAIN_REGISTRY", "ImageModelDescriptor", "ModelTiling", "UnsupportedModelError"]
