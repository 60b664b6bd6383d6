"""The Imagen engine as the worker sees it; the work is done in `job.py` and `service.py`."""

from __future__ import annotations

import os
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING

from upscaled_imaging.dimensions import plan_size
from upscaled_models.engine import Context, Engine, Outcome, Settings
from upscaled_models.imagen.account import credentials_in_sight, unusable
from upscaled_models.picture import picture_outcome
from upscaled_models.registry import is_installed
from upscaled_models.threads import give_way
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError
from upscaled_protocol.messages import Size

if TYPE_CHECKING:
    from upscaled_models.imagen.service import Service

# Importing the SDK takes half a second, from a cold disk some more.
_LOAD_BUDGET_S = 120.0
_NO_SDK = "the imagen method needs Google's SDK: pip install 'upscaled[imagen]'"


class ImagenEngine(Engine[ImagenConfig]):
    """Upscales pictures with Imagen, as many at once as `Settings.cloud_jobs`."""

    method = "imagen"
    lane = "remote"

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.slots = settings.cloud_jobs
        # The SDK's HTTP libraries put a password of ~/.netrc where the token belongs, or stumble
        # over both.
        os.environ["NETRC"] = os.devnull
        self._lock = threading.Lock()
        self._service: Service | None = None

    @classmethod
    def preimport(cls) -> None:
        """Import numpy and libvips, which the other engines need too. The SDK is imported by the
        first job: no worker starts later on its account."""
        import upscaled_models.imagen.job  # noqa: F401 - for the jobs to come

    def lacks(self) -> str | None:
        """The SDK, or credentials. A project may come with each job."""
        if not is_installed(self.method):
            return _NO_SDK
        return None if credentials_in_sight() else unusable().message

    def run(self, config: ImagenConfig, context: Context) -> Outcome:
        """Upscale one picture. Raises `JobError`; leaves no file behind unless it returns."""
        from upscaled_imaging.output import plan_output
        from upscaled_imaging.read import open_source
        from upscaled_imaging.write import open_sink
        from upscaled_models.imagen.account import find_account
        from upscaled_models.imagen.job import Job

        give_way()
        settings = self.settings
        account = find_account(config)
        with context.phase("load"):
            service = self._loaded_service(context)
        with ExitStack() as held:
            with context.phase("decode"):
                source = held.enter_context(open_source(config, settings, context))
            size = Size(width=source.width, height=source.height)
            factor = int(config.upscale_factor.removeprefix("x"))
            plan = plan_size(config, size, factor=factor, default_dpi=settings.defaults.dpi)
            output = plan_output(
                config, settings, source, plan, method=self.method, context=context
            )
            job = Job(config, source, plan, account=account, service=service, context=context)
            sink = held.enter_context(open_sink(output, job.native, source.bands, job.bits))
            job.upscale(sink)
            with context.phase("encode"):
                written = sink.commit()
        return picture_outcome(
            output,
            written,
            size,
            model=config.model,
            device="remote",
            upstream_calls=job.calls_made,
        )

    def close(self) -> None:
        """Close the connections."""
        if self._service is not None:
            self._service.close()

    def _loaded_service(self, context: Context) -> Service:
        if not is_installed(self.method):
            raise JobError(ErrorCode.UNKNOWN_METHOD, _NO_SDK)
        if self._service is None:
            context.progress(0, "load", budget_s=_LOAD_BUDGET_S)
        with self._lock:
            if self._service is None:
                from upscaled_models.imagen.service import Service

                self._service = Service(
                    calls_at_once=self.settings.cloud_jobs,
                    calls_a_minute=self.settings.cloud_calls_per_minute,
                    budget_s=self.settings.cloud_budget_s,
                )
        return self._service
