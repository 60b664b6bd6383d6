"""The requests that the server sends to a `webhook`. They are only in the document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Header

from upscaled_http.messages import PictureEvent, WebhookEvent

router = APIRouter(tags=["webhooks"])


@router.post("job-ended", status_code=HTTPStatus.NO_CONTENT)
def job_ended(
    event: WebhookEvent,
    webhook_id: Annotated[str, Header(description="The job's id, the same for each attempt.")],
    webhook_timestamp: Annotated[int, Header(description="Of the attempt, in seconds.")],
    webhook_signature: Annotated[str, Header(description="By Standard Webhooks, version v1.")],
) -> None:
    """A job has ended. Any 2xx ends the delivery. After any other answer it is tried again, for a
    day."""


@router.post("picture-filed", status_code=HTTPStatus.NO_CONTENT)
def picture_filed(
    event: PictureEvent,
    webhook_id: Annotated[str, Header(description="The picture's id, the same for each attempt.")],
    webhook_timestamp: Annotated[int, Header(description="Of the attempt, in seconds.")],
    webhook_signature: Annotated[str, Header(description="By Standard Webhooks, version v1.")],
) -> None:
    """A picture is in the bucket, or cannot be filed. Delivered as a job's end is."""
