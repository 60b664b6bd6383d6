"""The command and the environment of the daemon."""

from __future__ import annotations

import os

from upscaled.command import default_command
from upscaled_http.config import Settings
from upscaled_http.storage import Storage

# The daemon's limit is above the server's, so that it never refuses a job that the server took.
_SPARE_QUEUE = 8
# The variables of these sections may hold secrets.
_SECRETS = ("UPSCALED_AUTH", "UPSCALED_WEBHOOKS")
_QUEUE = "UPSCALED_QUEUE_"
_WEBHOOKS = "UPSCALED_WEBHOOKS_"


def daemon_command(settings: Settings, storage: Storage) -> list[str]:
    """`upscaled run` with these settings, or `upscaled queue run` if there is a queue. The options
    of `workers.args` come last."""
    if settings.queue.url is not None:
        return [*default_command()[:-1], "queue", *queue_arguments(settings)]
    limits, workers, urls = settings.limits, settings.workers, settings.urls
    options: dict[str, object] = {
        "--journal": storage.journal,
        "--max-queue": limits.max_queue + _SPARE_QUEUE,
        "--grace-s": settings.server.grace_s,
        "--max-input-megapixels": limits.max_input_megapixels,
        "--max-output-megapixels": limits.max_output_megapixels,
        "--methods": ",".join(workers.methods),
        "--workers": workers.count,
        "--device": ",".join(workers.device) or None,
        "--memory-limit-mb": workers.memory_limit_mb,
        "--model-dir": workers.model_dir,
    }
    repeated = {
        "--allow-root": (storage.uploads, storage.results),
        "--allow-host": urls.allow_hosts,
        "--preload": workers.preload,
    }
    command = list(default_command())
    for option, value in options.items():
        if value is not None:
            command += [option, str(value)]
    for option, values in repeated.items():
        for value in values:
            command += [option, str(value)]
    if urls.allow_private:
        command.append("--allow-private-urls")
    return [*command, *workers.args]


def queue_arguments(settings: Settings) -> list[str]:
    """Those of `upscaled queue` for the daemon of a queue."""
    return ["run", "--methods", ",".join(settings.workers.methods), *settings.workers.args]


def daemon_environment(settings: Settings) -> dict[str, str]:
    """The environment without the server's secrets. The daemon of a queue gets the queue's URLs
    here, because other users of the machine can read command lines and the URLs may have passwords;
    and the webhooks' secret, because it sends those of jobs that others put into the queue."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith((*_SECRETS, _QUEUE))
    }
    queue = settings.queue
    for name, secret in (("URL", queue.url), ("RECORD", queue.record)):
        if secret is not None:
            environment[_QUEUE + name] = secret.get_secret_value()
    webhooks = settings.webhooks
    if queue.url is not None and webhooks.secret is not None:
        environment[_WEBHOOKS + "SECRET"] = webhooks.secret.get_secret_value()
        environment[_WEBHOOKS + "ALLOW_HOSTS"] = ",".join(webhooks.allow_hosts)
    return {**environment, _QUEUE + "PREFIX": queue.prefix}
