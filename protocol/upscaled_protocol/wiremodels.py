"""What the models of all messages have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class HostMessage(BaseModel):
    """From the host. Unknown fields are kept, so that a warning can name them."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)


class WorkerMessage(BaseModel):
    """From the worker. Hosts ignore fields and types that they do not know."""

    # JSON has no NaN: it would reach the host as null.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
