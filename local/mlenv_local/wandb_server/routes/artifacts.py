"""GET of an artifact's file by its place: where the client turns when a signed URL has expired."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server import ids
from mlenv_local.wandb_server.artifacts import collections
from mlenv_local.wandb_server.errors import NotFound

if TYPE_CHECKING:
    import sqlite3

    from starlette.requests import Request

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.context import Services


async def download(request: Request) -> Response:
    """Authenticate, find the content, and send the client to a fresh signed URL."""
    services: Services = request.app.state.services
    user = await services.blocking(services.authenticate, request.headers)
    base = services.base_url(request)
    return RedirectResponse(await services.blocking(_url, services, user, base, request.path_params), 302)


def _url(services: Services, user: User, base: str, place: dict[str, str]) -> str:
    with services.store.read() as db:
        path = (place["entity"], place["project"], place["collection"])
        collection = collections.named(db, user, *path)
        sha256 = _content(db, collection["id"], place)
    return services.blobs.download_url(base, sha256, place["name"])


def _content(db: sqlite3.Connection, collection: int, place: dict[str, str]) -> str:
    """The content with that digest in a version of the collection: in the one named, if one is."""
    try:
        digest = base64.b64encode(bytes.fromhex(place["digest"])).decode()
    except ValueError:
        digest = ""
    artifact = ids.parse_int("Artifact", place["artifact"]) if "artifact" in place else None
    row = db.execute(
        "SELECT sha256 FROM artifact_memberships m JOIN artifact_entries x ON x.artifact_id = m.artifact_id"
        " WHERE m.collection_id = ?1 AND x.digest = ?2 AND x.sha256 IS NOT NULL"
        " AND (?3 IS NULL OR x.artifact_id = ?3)",
        (collection, digest, artifact),
    ).fetchone()
    if row is None:
        raise NotFound(f"No version of {place['collection']} has a file {place['name']} with that digest.")
    return str(row["sha256"])


_COLLECTION = "/artifactsV2/{region}/{entity}/{project}/{collection}"
ROUTES = [
    Route(f"{_COLLECTION}/{{artifact}}/{{birth}}/{{digest}}/{{name}}", download, methods=["GET"]),
    Route(f"{_COLLECTION}/{{birth}}/{{digest}}/{{name}}", download, methods=["GET"]),
]
