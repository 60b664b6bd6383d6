"""The client of a server, `upscaled serve`: what `Upscaler(url=…)` stands on."""
