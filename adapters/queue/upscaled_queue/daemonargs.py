"""The options with which a machine starts its `upscaled run`."""

from __future__ import annotations

from collections.abc import Sequence

from upscaled_queue.job import PIPELINE, UPSCALING_METHOD
from upscaled_queue.settings import Settings


def daemon_args(settings: Settings, scratch: Sequence[str] = ()) -> list[str]:
    """Without an allowed root no path is taken: the root is then a folder that does not exist.
    scratch: folders for the pictures of buckets."""
    roots = settings.allow_roots or ("/nonexistent/no--allow-root-was-given",)
    served = (UPSCALING_METHOD if one == PIPELINE else one for one in settings.methods)
    args = ["--methods", ",".join(dict.fromkeys(served)), "--grace-s", f"{settings.grace_s:g}"]
    for root in (*roots, *scratch):
        args += ["--allow-root", root]
    for prefix in settings.allow_urls:
        args += ["--allow-url", prefix]
    return [*args, *settings.daemon_args]
