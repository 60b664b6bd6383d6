"""The FLUX engine: image-to-image in tiles over an ESRGAN upscale, from ComfyUI's files."""
