"""The proof: a daemon upscales a picture by the default model, and by each of the user's own
models.

The daemon loads every library, so if it succeeds, the libraries need no other check.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upscaled.errors import DaemonGoneError, NoAnswerError
from upscaled.messages import Message
from upscaled_cli.doctor.finding import Finding
from upscaled_cli.session import Session

# A picture of 8x8 gray pixels, as PNG.
_PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR42mNIgAIGyhgAYHUYAeOSAeQAAAAASUVORK5C"
    "YII="
)
# A folder may hold hundreds of models, and each takes a second or more.
_MOST_TRIED = 10
_DEFAULT = "the default model"


@dataclass
class Trial:
    """The daemon's messages: its status, and the end of each job by the model's name."""

    ready: Message = field(default_factory=dict)
    health: Message = field(default_factory=dict)
    ends: dict[str, Message] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    untried: list[str] = field(default_factory=list)

    @property
    def has_upscaled(self) -> bool:
        """True if the default model has upscaled the picture."""
        return self.ends.get(_DEFAULT, {}).get("type") == "result"

    def findings(self) -> Iterator[Finding]:
        """The device, the picture, the methods, the user's own models."""
        if self.has_upscaled:
            yield _device(self.ends[_DEFAULT], self.health)
        yield self._picture()
        if self.ready.get("methods"):
            yield Finding("methods", "ok", f"{', '.join(self.ready['methods'])} can run")
        for method, why in (self.ready.get("unavailable") or {}).items():
            yield Finding("methods", "note", f"{method} cannot run: {why}")
        if self.has_upscaled:
            for fault in self.faults:
                yield Finding("methods", "problem", fault)
        for name, end in self.ends.items():
            if name == _DEFAULT:
                continue
            if end["type"] == "result":
                yield Finding("own model", "ok", f"{name}: has upscaled a picture")
            else:
                yield Finding("own model", "note", str(end.get("error")))
        if self.untried:
            text = f"{len(self.untried)} more were not tried, from {self.untried[0]} on"
            yield Finding("own model", "note", text, "upscaled upscale --model NAME tries one")

    def _picture(self) -> Finding:
        if self.has_upscaled:
            time_s = self.ends[_DEFAULT]["processing_time"]
            return Finding("picture", "ok", f"upscaled in {time_s:.1f} s")
        reasons = [*self.faults, str(self.ends.get(_DEFAULT, {}).get("error", ""))]
        return Finding(
            "picture",
            "problem",
            f"none could be upscaled: {'; '.join(filter(None, reasons))}",
            "solve the problems above; else run `upscaled upscale -v` and read its log",
        )


def options(model_dir: Path) -> list[str]:
    """The daemon's options: its default methods, even if UPSCALED_METHODS is set."""
    try:
        from upscaled_models.registry import default_methods

        methods = ",".join(default_methods())
    except ImportError:  # all methods need the library: the daemon reports it
        methods = "esrgan"
    return ["--methods", methods, "--model-dir", str(model_dir)]


def run(client: Session, own: Sequence[str], show: Callable[[str], None]) -> Trial:
    """Send the daemon a picture for the default model, then one per file of `own`.

    show: called with the current activity. Raises `ShuttingDownError` if the client was closed
    before.
    """
    tried = Trial(untried=list(own[_MOST_TRIED:]))
    show("starting a daemon, which loads the libraries")
    names: dict[str, str] = {}
    try:
        for name in (_DEFAULT, *own[:_MOST_TRIED]):
            config = {"image_base64": _PICTURE, "output_base64": True}
            chosen = {} if name == _DEFAULT else {"model": name}
            names[client.submit("esrgan", config | chosen)] = name
        for message in client.events():
            _take(message, tried, names, show)
        if tried.has_upscaled:
            tried.health = client.health()
    except (DaemonGoneError, NoAnswerError) as error:
        tried.faults.append(str(error))
    return tried


def _take(
    message: Message, tried: Trial, names: dict[str, str], show: Callable[[str], None]
) -> None:
    status = message.get("message")
    if status == "ready":
        tried.ready = message
    elif status == "degraded":
        tried.faults.append(str(message.get("detail")))
    elif message["type"] == "progress":
        show(f"upscaling a picture by {names[message['job_id']]}")
    elif message["type"] in ("result", "error") and message.get("job_id") in names:
        tried.ends[names[message["job_id"]]] = message


def _device(result: Message, health: Message) -> Finding:
    precision = result.get("precision")
    if health.get("gpu_name"):
        free = f"{health.get('gpu_memory_free', 0):.1f} GB free"
        return Finding("device", "ok", f"{health['gpu_name']}, {free}, {precision}")
    if not Path("/proc/driver/nvidia/version").exists():
        return Finding("device", "ok", f"cpu, {precision}")
    is_cpu_build = "+cpu" in importlib.metadata.version("torch")
    missing = "this torch is a CPU build" if is_cpu_build else "torch cannot use it"
    return Finding(
        "device",
        "note",
        f"cpu, {precision}; there is an NVIDIA driver, but {missing}",
        "install torch and torchvision in the build for your CUDA; look at CUDA_VISIBLE_DEVICES",
    )
