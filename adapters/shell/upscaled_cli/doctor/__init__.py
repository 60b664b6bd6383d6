"""`upscaled doctor`: what is here, what is missing, and how to get it."""

from upscaled_cli.doctor.command import main, parser

__all__ = ["main", "parser"]
