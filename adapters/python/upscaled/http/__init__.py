"""The client of a server, `upscaled serve`. `Upscaler(url=…)` is built on it."""
