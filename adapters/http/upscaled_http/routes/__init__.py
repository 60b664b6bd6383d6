"""The routes. `app.py` mounts `ROUTERS` under `/api`, and under the alias `/api/v1`."""

from __future__ import annotations

from fastapi import APIRouter

from upscaled_http.routes import (
    batches,
    health,
    images,
    joblist,
    jobs,
    models,
    queue,
    results,
    submit,
    upkeep,
)

ROUTERS: tuple[APIRouter, ...] = (
    submit.router,
    batches.router,
    images.router,
    joblist.router,
    jobs.router,
    results.router,
    models.router,
    upkeep.router,
    queue.router,
    health.router,
)
