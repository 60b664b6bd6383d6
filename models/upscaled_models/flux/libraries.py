"""diffusers and transformers. Import them from here, so that they never use the network.

Importing this module takes seconds: only a job does.
"""

import os

# huggingface_hub reads these when it is first imported. Nothing here loads a model by its hub name.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Otherwise a CUDA kernel for quantised weights would be fetched from a hub.
os.environ["DIFFUSERS_GGUF_CUDA_KERNELS"] = "0"

from upscaled_models.torchvision_shim import import_torchvision

# transformers imports it if it is installed.
import_torchvision()

from diffusers import AutoencoderKL, FluxTransformer2DModel  # noqa: E402
from diffusers.quantizers.gguf.utils import dequantize_functions  # noqa: E402
from transformers import (  # noqa: E402
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
)

__all__ = [
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "FluxTransformer2DModel",
    "T5Config",
    "T5EncoderModel",
    "dequantize_functions",
]
