"""The Imagen engine as the worker sees it: `enlargement.py` does a job, `service.py` the calls."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from upscaled_imaging.dimensions import Plan
from upscaled_models.device.threads import give_way
from upscaled_models.engine import Context, Settings
from upscaled_models.imagen.account import credentials_in_sight, unusable
from upscaled_models.picture import Enlarge, Enlargement, PictureEngine
from upscaled_models.registry import is_installed
from upscaled_protocol.configs import ImagenConfig
from upscaled_protocol.errors import ErrorCode, JobError

if TYPE_CHECKING:
    from upscaled_imaging.read import Source
    from upscaled_models.imagen.service import Service

# Importing the SDK takes half a second, from a cold disk some more.
_LOAD_BUDGET_S = 120.0
_NO_SDK = "the imagen method needs Google's SDK: pip install 'upscaled[imagen]'"


class ImagenEngine(PictureEngine[ImagenConfig]):
    """Upscales pictures with Imagen, as many at once as `Settings.cloud_jobs`."""

    method = "imagen"
    lane = "remote"
    takes_turns = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.slots = settings.cloud_jobs
        # The SDK's HTTP libraries send a password of ~/.netrc instead of the token, or fail because
        # there are both.
        os.environ["NETRC"] = os.devnull
        self._lock = threading.Lock()
        self._service: Service | None = None

    @classmethod
    def preimport(cls) -> None:
        """Import numpy and libvips, which the other engines need too.

        The SDK is imported by the first job, because it would delay the start of every worker.
        """
        super().preimport()
        import upscaled_models.imagen.enlargement  # noqa: F401 - for the first job

    def lacks(self) -> str | None:
        """The SDK or credentials. The project may be given by each job."""
        if not is_installed(self.method):
            return _NO_SDK
        return None if credentials_in_sight() else unusable().message

    def prepare(self, config: ImagenConfig, context: Context) -> Enlarge:
        """Find the account, and connect to the service. Raises `JobError`."""
        from upscaled_models.imagen.account import find_account
        from upscaled_models.imagen.enlargement import ImagenEnlargement

        give_way()
        account = find_account(config)
        with context.phase("load"):
            service = self._loaded_service(context)

        def enlarge(source: Source, plan: Plan) -> AbstractContextManager[Enlargement]:
            return nullcontext(
                ImagenEnlargement(
                    config, source, plan, account=account, service=service, context=context
                )
            )

        return enlarge

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
                    calls_per_minute=self.settings.cloud_calls_per_minute,
                    budget_s=self.settings.cloud_budget_s,
                )
        return self._service
