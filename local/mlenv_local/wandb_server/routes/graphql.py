"""POST /graphql, as the client speaks it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server.context import Context, Services, body
from mlenv_local.wandb_server.errors import Refused

if TYPE_CHECKING:
    from starlette.requests import Request

    from mlenv_local.wandb_server.gql import Document, Schema


async def graphql(request: Request) -> Response:
    """Authenticate, find the operation, let its fault happen, execute it in a worker thread."""
    services: Services = request.app.state.services
    schema: Schema = request.app.state.schema
    asked = _parsed(await body(request))
    user = await services.blocking(services.authenticate, request.headers)
    query, name = asked["query"], asked.get("operationName") or ""
    document: Document = await services.blocking(schema.document, query, name)
    if (fault := await services.faults.enter(document.name)) is not None:
        return fault
    context = Context(services, user, services.base_url(request))
    answer = await services.blocking(schema.execute, document, asked.get("variables") or {}, context)
    return JSONResponse(answer)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        asked = json.loads(raw)
    except ValueError as error:
        raise Refused("The body of a GraphQL request is a JSON object with `query`.") from error
    if not isinstance(asked, dict) or not isinstance(asked.get("query"), str):
        raise Refused("The body of a GraphQL request is a JSON object with `query`.")
    return asked


ROUTES = [Route("/graphql", graphql, methods=["POST"])]
