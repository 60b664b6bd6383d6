"""Imported by each Python that starts with this folder in PYTHONPATH: see `nearest_engine.py`."""

import sys

if any("upscaled_worker" in argument for argument in sys.orig_argv):
    from upscaled_models import registry

    registry._ENGINES["esrgan"] = registry._Entry("nearest_engine:NearestEngine")
