"""diffusers and transformers; to be imported from here, so that they never look for a network.

Importing this module takes seconds: only a job does.
"""

import os

# Read by huggingface_hub when it is first imported; nothing here loads by a hub's name anyway.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# A CUDA kernel for quantised weights would be fetched from a hub.
os.environ["DIFFUSERS_GGUF_CUDA_KERNELS"] = "0"

from upscaled_models.torchvision_shim import declare_missing_operators

# transformers imports torchvision where it is installed.
declare_missing_operators()

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
