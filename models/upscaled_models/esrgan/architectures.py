"""spandrel, the home of the architectures; to be imported from here, so that it can be."""

from upscaled_models.torchvision_shim import declare_missing_operators

# spandrel imports torchvision.
declare_missing_operators()

from spandrel import (  # noqa: E402
    MAIN_REGISTRY,
    ImageModelDescriptor,
    ModelTiling,
    UnsupportedModelError,
)

__all__ = ["MAIN_REGISTRY", "ImageModelDescriptor", "ModelTiling", "UnsupportedModelError"]
