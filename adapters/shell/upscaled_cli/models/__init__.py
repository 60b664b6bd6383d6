"""`upscaled models list | pull | add | verify`."""

from upscaled_cli.models.command import main, parser

__all__ = ["main", "parser"]
