"""What resolvers and routes work with: the server's parts, and who asks from where."""

from __future__ import annotations

import base64
import binascii
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import anyio
import anyio.to_thread
from graphql import GraphQLResolveInfo

from mlenv_local.wandb_server import accounts
from mlenv_local.wandb_server.errors import TooLarge, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.requests import Request

    from mlenv_local.wandb_server.accounts import User
    from mlenv_local.wandb_server.blobs import Blobs
    from mlenv_local.wandb_server.faults import Faults
    from mlenv_local.wandb_server.multipart import Multipart
    from mlenv_local.wandb_server.settings import Settings
    from mlenv_local.wandb_server.signing import Signer
    from mlenv_local.wandb_server.store import Store

    T = TypeVar("T")

THREADS = 16
LARGEST_BODY = 128 << 20
"""Bytes of a GraphQL request or a message of a run; contents are streamed and may be larger."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one server."""

    settings: Settings
    store: Store
    signer: Signer
    blobs: Blobs
    multipart: Multipart
    faults: Faults
    limiter: anyio.CapacityLimiter
    admin_token: str

    async def blocking(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Run what waits for a disk in a worker thread; the present fault goes with it."""
        return await anyio.to_thread.run_sync(functools.partial(call, *args, **kwargs), limiter=self.limiter)

    def authenticate(self, headers: Mapping[str, str]) -> User:
        """Whose request that is, by its API key in Basic authentication."""
        scheme, _, value = headers.get("authorization", "").partition(" ")
        key = _password(value) if scheme.lower() == "basic" else ""
        if not key:
            raise Unauthenticated("The request has no API key: `wandb login`, or set WANDB_API_KEY.")
        with self.store.read() as db:
            return accounts.authenticate(db, key)

    def base_url(self, request: Request) -> str:
        """The base of URLs that this client can reach: as it reached us, or what the settings say."""
        if self.settings.public_url:
            return self.settings.public_url.rstrip("/")
        headers = request.headers
        scheme = headers.get("x-forwarded-proto", request.url.scheme)
        host = headers.get("x-forwarded-host") or headers.get("host") or request.url.netloc
        return f"{scheme.partition(',')[0].strip()}://{host.partition(',')[0].strip()}"


@dataclass(frozen=True, slots=True)
class Context:
    """What every resolver gets as `info.context`."""

    services: Services
    user: User
    base_url: str


Info: TypeAlias = GraphQLResolveInfo[Context]
"""What every resolver gets as its second argument."""
Raw: TypeAlias = dict[str, Any]
"""A value of the schema."""


async def body(request: Request) -> bytes:
    """All of a request that must fit into memory; TooLarge otherwise."""
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > LARGEST_BODY:
            raise TooLarge(f"The request has more than {LARGEST_BODY} bytes: send it in several.")
    return bytes(received)


def _password(value: str) -> str:
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
