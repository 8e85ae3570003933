"""PUT and GET of contents under signed URLs, streaming both ways."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Any

from starlette.responses import FileResponse, Response
from starlette.routing import Route

from mlenv_local.wandb_server.blobs import CHUNK
from mlenv_local.wandb_server.errors import NotFound, Refused
from mlenv_local.wandb_server.signing import PREFIX

if TYPE_CHECKING:
    from starlette.requests import Request

    from mlenv_local.wandb_server.blobs import Staged
    from mlenv_local.wandb_server.context import Services


class _File(FileResponse):
    chunk_size = CHUNK


async def upload(request: Request) -> Response:
    """Take the content of a slot, or of a part of one; the answer's ETag is its MD5 in hex."""
    services: Services = request.app.state.services
    claims = services.signer.check("PUT", request.path_params["token"])
    if (fault := await services.faults.enter("upload")) is not None:
        return fault
    md5 = request.headers.get("content-md5", "")
    if md5 and claims.get("md5") not in (None, md5):
        raise Refused(f"The URL is for the content with MD5 {claims['md5']}, not {md5}.")
    staged = await services.blocking(services.blobs.stage)
    try:
        await _receive(request, staged, services)
        etag = await services.blocking(_keep, services, claims, staged, claims.get("md5") or md5)
    finally:
        await services.blocking(staged.discard)
    return Response(status_code=200, headers={"ETag": f'"{etag}"'})


async def download(request: Request) -> Response:
    """Give a content, or the range of it that was asked for."""
    services: Services = request.app.state.services
    claims = services.signer.check("GET", request.path_params["token"])
    if (fault := await services.faults.enter("download")) is not None:
        return fault
    path = services.blobs.path(claims["h"])
    if not path.exists():
        raise NotFound(f"The content of {claims['n']} is no longer on this server: it was deleted.")
    kind = mimetypes.guess_type(claims["n"])[0] or "application/octet-stream"
    # Somebody else's file must not run as a page of this server.
    headers = {"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"}
    return _File(path, media_type=kind, headers=headers)


async def _receive(request: Request, staged: Staged, services: Services) -> None:
    """Gather small network chunks into large writes."""
    waiting = bytearray()
    async for chunk in request.stream():
        waiting += chunk
        if len(waiting) >= CHUNK:
            await services.blocking(staged.write, bytes(waiting))
            waiting.clear()
    await services.blocking(staged.write, bytes(waiting))


def _keep(services: Services, claims: dict[str, Any], staged: Staged, md5: str) -> str:
    if "u" in claims:
        return services.multipart.put_part(claims["u"], claims["p"], staged, md5)
    return services.blobs.put(claims["k"], staged, md5).md5_hex


ROUTES = [
    Route(f"{PREFIX}/{{token}}/{{filename}}", upload, methods=["PUT"]),
    Route(f"{PREFIX}/{{token}}/{{filename}}", download, methods=["GET"]),
]
