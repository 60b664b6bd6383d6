"""The routes. `app.py` mounts `ROUTERS` under `/api`, and under `/api/v1` as an alias."""

from __future__ import annotations

from fastapi import APIRouter

from upscaled_http.routes import health, models

ROUTERS: tuple[APIRouter, ...] = (health.router, models.router)
