"""The sidecar: `upscaled serve`, an HTTP API and a page in front of one daemon."""
