"""An upload comes back larger: `uvicorn --app-dir examples/python fastapi_app:app`.

curl -F picture=@examples/astronaut.jpg 'http://127.0.0.1:8000/upscale?factor=2' -o large.png
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, File, HTTPException, Query, Request, Response

import upscaled


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """One daemon for all requests; it loads the model once."""
    async with upscaled.AsyncUpscaler() as app.state.up:
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/upscale")
async def upscale(
    request: Request,
    picture: Annotated[bytes, File()],
    factor: Annotated[float, Query(gt=1, le=8)] = 2,
) -> Response:
    """The uploaded picture as a PNG."""
    up: upscaled.AsyncUpscaler = request.app.state.up
    try:
        result = await up.upscale(picture, bytes, factor=factor, timeout_s=300)
    except upscaled.InputError as error:
        raise HTTPException(422, error.code) from error
    except upscaled.UpscaledError as error:
        # The sentence may hold paths of this machine: log it, and send the code.
        raise HTTPException(503 if error.retryable else 500, error.code) from error
    return Response(result.image, media_type="image/png")
