"""`upscaled doctor`: reports what is installed, what is missing, and how to get it."""

from upscaled_cli.doctor.command import main, parser

__all__ = ["main", "parser"]
