"""The `upscaled` command."""
