"""The fake engine, for people who write hosts: it fails in every way that a worker can fail.

It needs no weights and no torch, starts at once, and does exactly what `FakeConfig` asks for.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from upscaled_imaging.paths import check_allowed, check_opened, given_path
from upscaled_imaging.pendingfile import PendingFile
from upscaled_models.engine import Context, Device, Engine, Outcome, Settings
from upscaled_protocol.configs import FakeConfig
from upscaled_protocol.errors import JobError

_MIB = 1024 * 1024


class FakeEngine(Engine[FakeConfig]):
    """Sleeps in steps. At a given step it prints, fails, hangs, exits or takes memory."""

    method = "fake"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._leaked: list[bytearray] = []
        self._sleepers: list[subprocess.Popen[bytes]] = []
        self._loaded: dict[str, None] = {}

    def run(self, config: FakeConfig, context: Context) -> Outcome:
        """Run the steps. Raises `JobError` and anything else that the config asks for."""
        if config.output_path is not None:
            check_allowed(given_path(config.output_path).parent, self.settings.access.roots)
        if config.load_s and config.model not in self._loaded:
            with context.phase("load"):
                context.progress(0, "load", budget_s=config.load_s + 60)
                _pause(config.load_s, context)
        self._loaded[config.model] = None
        misbehaves = config.only_on_attempt in (None, context.attempt)
        if config.steps:
            with context.device_turn(), context.phase("inference"):
                for step in range(config.steps):
                    if step == config.at_step and misbehaves:
                        self._misbehave(config, context)
                    _pause(config.step_s, None if config.ignore_cancel else context)
                    if config.steps > 1 and not config.ignore_cancel:
                        context.progress(
                            100 * (step + 1) / config.steps,
                            "step",
                            done=step + 1,
                            total=config.steps,
                        )
        if config.output_path is not None:
            path = given_path(config.output_path)
            _write_whole(path, config.output_text, self.settings.access.roots)
        return Outcome(output_path=config.output_path, model=config.model, device="fake")

    def models(self) -> list[str]:
        """The one model that it pretends to have."""
        return ["fake"]

    def models_loaded(self) -> list[str]:
        """Every name that a job gave as `model`."""
        return list(self._loaded)

    def device(self) -> Device:
        """A device that does not exist."""
        return Device(name="fake")

    def trim(self, *, idle_only: bool = False) -> None:
        """Forget the models. The memory of `grow_mb` is a leak and is kept."""
        if not idle_only:
            self._loaded.clear()

    def _misbehave(self, config: FakeConfig, context: Context) -> None:
        self._make_noise(config)
        if config.spawn_sleeper:
            # In a session of its own, which is the hardest to find for who cleans up.
            sleeper = subprocess.Popen(
                ["sleep", "3600"],  # noqa: S607
                close_fds=False,
                start_new_session=True,
            )
            self._sleepers.append(sleeper)
        if config.grow_mb:
            # All pages are written, because the kernel counts only those as resident.
            self._leaked.append(bytearray(b"\1") * (config.grow_mb * _MIB))
        self._fail(config)
        if config.hang:
            while True:
                _pause(3600.0, None if config.ignore_cancel else context)
        if config.hang_native:
            _hang_in_native_code()

    def _make_noise(self, config: FakeConfig) -> None:
        if config.print_text is not None:
            print(config.print_text, flush=True)  # noqa: T201
        if config.c_print_text is not None:
            _print_from_c(config.c_print_text)
        if config.subprocess_text is not None:
            code = "import sys; print(sys.argv[1])"
            subprocess.run([sys.executable, "-P", "-c", code, config.subprocess_text], check=True)

    def _fail(self, config: FakeConfig) -> None:
        if config.raise_text is not None:
            raise RuntimeError(config.raise_text)
        if config.error_code is not None:
            raise JobError(config.error_code, "the job asked the fake engine for this")
        if config.out_of_memory:
            raise MemoryError
        if config.exit_code is not None:
            os._exit(config.exit_code)
        if config.signal is not None:
            signal.raise_signal(config.signal)  # at this thread: it does not get any further


def _pause(seconds: float, context: Context | None) -> None:
    """Sleep, waking often enough for a cancel to be felt at once."""
    end = time.monotonic() + seconds
    while True:
        if context is not None:
            context.check_cancelled()
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, 0.01))


def _print_from_c(text: str) -> None:
    libc = ctypes.CDLL(None)
    libc.puts(text.encode())
    libc.fflush(None)
    line = text.encode() + b"\n"
    libc.write(1, line, len(line))


def _hang_in_native_code() -> None:
    """Never return, and keep the interpreter lock: only a signal ends the process."""
    while True:
        ctypes.PyDLL(None).pause()


def _write_whole(path: Path, text: str, roots: Sequence[Path]) -> None:
    pending = PendingFile(path)
    try:
        check_opened(pending.folder, path.parent, roots)
        pending.file.write(text.encode())
        pending.file.flush()
        pending.publish()
    finally:
        pending.close()
