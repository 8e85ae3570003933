"""Cutting and slowing connections: the outermost layer counts bytes, and does what a fault says of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from mlenv_local.wandb_server import faults

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Dropped(BaseException):
    """The connection was cut; nobody is there to be told."""


class Drops:
    """Middleware that lets a request's bytes through until its fault's limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or as much of it as the fault lets through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        faults.reset()
        request = _Request(scope, receive, send)
        try:
            await self._app(scope, request.receive, request.send)
        except Dropped:
            request.cut()
            await asyncio.sleep(0)  # until uvicorn has noticed: it then expects no answer


class _Request:
    """The two directions of one request; uploads are counted as they come, all else as it goes."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._passed = 0
        self._head: Message | None = None
        self._uploads = scope["method"] == "PUT"

    async def receive(self) -> Message:
        message = await self._receive()
        if self._uploads and message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
            await self._pause(message)
        return message

    async def send(self, message: Message) -> None:
        limit = faults.drop_after()
        if not self._uploads:
            await self._pause(message)
        if self._uploads or limit < 0:
            await self._send(message)
        elif message["type"] == "http.response.start":
            self._head = (
                message  # held until a byte of the body may pass: status 200 alone is an answer to some
            )
        else:
            await self._send_some(message, limit - self._passed)

    async def _send_some(self, message: Message, left: int) -> None:
        body = message.get("body", b"")
        if self._head is not None and (left or not body):
            await self._send(self._head)
            self._head = None
        if len(body) > left:
            if left:
                await self._send({"type": "http.response.body", "body": body[:left], "more_body": True})
            raise Dropped
        await self._send(message)
        self._passed += len(body)

    async def _pause(self, message: Message) -> None:
        """What is not read from the socket yet fills its buffers: so the other side is slowed, too."""
        if seconds := faults.pause(len(message.get("body", b""))):
            await asyncio.sleep(seconds)

    def _count(self, size: int) -> None:
        self._passed += size
        limit = faults.drop_after()
        if 0 <= limit < self._passed:
            raise Dropped

    def cut(self) -> None:
        """Close the socket of this request at once, whatever is under way on it."""
        for connection in _connections(self._scope):
            if connection.client == self._scope["client"]:
                connection.transport.abort()


def _connections(scope: Scope) -> list[Any]:
    """Uvicorn's open connections: ASGI itself has no way to hang up."""
    server = getattr(scope["app"].state, "server", None) if "app" in scope else None
    return list(server.server_state.connections) if server is not None else []
