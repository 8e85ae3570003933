"""POST /files/{entity}/{project}/{run}/file_stream: what a run's process logs, and its heartbeat."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server import runs, stream
from mlenv_local.wandb_server.context import body
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from starlette.requests import Request

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.context import Services


async def file_stream(request: Request) -> Response:
    """Take one message and answer once it is on disk."""
    services: Services = request.app.state.services
    raw = await body(request)
    if request.headers.get("content-encoding") == "gzip":
        raw = await services.blocking(gzip.decompress, raw)
    user = await services.blocking(services.authenticate, request.headers)
    if (fault := await services.faults.enter("file_stream")) is not None:
        return fault
    return JSONResponse(await services.blocking(_receive, services, user, request, raw))


def _receive(services: Services, user: User, request: Request, raw: bytes) -> dict[str, Any]:
    path, headers = request.path_params, request.headers
    shared = headers.get("x-wandb-use-async-filestream") == "true"
    try:
        message = json.loads(raw)
    except ValueError as error:
        raise Refused("The body of a file_stream is a JSON object.") from error
    with services.store.write() as db:
        run = runs.by_path(db, user, path["entity"], path["project"], path["run"])
        return stream.receive(db, run, message, headers.get("x-wandb-async-client-id", "") if shared else "")


ROUTES = [Route("/files/{entity}/{project}/{run}/file_stream", file_stream, methods=["POST"])]
