"""The options and the environment with which a machine starts its `upscaled run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from upscaled_queue.job import PIPELINE, UPSCALING_METHOD
from upscaled_queue.settings import PREFIX, Settings
from upscaled_queue.webhooks import PREFIX as WEBHOOKS_PREFIX

_ALLOW_ROOT = "--allow-root"


def takes_paths(settings: Settings) -> bool:
    """True if jobs may name local files: by an option of the machine, or one of its daemon."""
    own = (one.partition("=")[0] for one in settings.daemon_args)
    return bool(settings.allow_roots) or _ALLOW_ROOT in own


def daemon_args(settings: Settings, scratch: Sequence[str] = ()) -> list[str]:
    """The options of `upscaled run`. scratch: folders for the pictures of buckets.

    Without an allowed root the machine refuses every path, with a sentence of its own. The daemon
    would take all of them, so its root is a folder that does not exist.
    """
    roots = settings.allow_roots or ("/nonexistent",)
    served = (UPSCALING_METHOD if one == PIPELINE else one for one in settings.methods)
    args = ["--methods", ",".join(dict.fromkeys(served)), "--grace-s", f"{settings.grace_s:g}"]
    for root in (*roots, *scratch):
        args += [_ALLOW_ROOT, root]
    for prefix in settings.allow_urls:
        args += ["--allow-url", prefix]
    return [*args, *settings.daemon_args]


def daemon_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the webhooks' secret and the queue's password, which the daemon does
    not need."""
    secret = (PREFIX, WEBHOOKS_PREFIX)
    return {name: value for name, value in environment.items() if not name.startswith(secret)}
