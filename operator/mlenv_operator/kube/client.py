"""The verbs of the API server, on raw objects.

Reads are tried again when that may help. Writes never are: whether a write that got no answer happened is for
the next reconcile to see. Every write asks the gate first, and must end while the gate would still be open.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import orjson

from mlenv_operator.kube.errors import LeaseLost, Transient, from_status
from mlenv_operator.kube.lines import LineSplitter
from mlenv_operator.kube.transport import Request, Transport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from mlenv_operator.kube.resources import Resource

Raw = dict[str, Any]
PAGE: Final = 200
"""Each is parsed at one go: 200 pods are a megabyte, and some 20 ms in which nothing else happens."""
READ_ATTEMPTS: Final = 4
WATCH_SECONDS: Final = (240, 290)
"""The server ends a watch after so many seconds, at random, lest all watches end at once."""
SILENCE_S: Final = 150.0
"""Bookmarks come every minute, the first of a young kind after two: a stream silent for longer is dead."""

STRICT: Final = {"fieldValidation": "Strict"}
"""An unknown field is an error instead of a warning that nobody reads."""

JSON_PATCH: Final = "application/json-patch+json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"
_METADATA: Final = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class ListPage(NamedTuple):
    """One page of a list."""

    items: list[Raw]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a kind, and how much of them."""

    namespace: str = ""
    label_selector: str = ""
    field_selector: str = ""
    metadata_only: bool = False

    def query(self, **more: str) -> dict[str, str]:
        """As query parameters."""
        own = {"labelSelector": self.label_selector, "fieldSelector": self.field_selector}
        return {name: value for name, value in (own | more).items() if value}

    def accept(self, kind: str = "") -> str:
        """As an Accept header."""
        return _METADATA.format(kind) if self.metadata_only else "application/json"


EVERYTHING: Final = Selection()


class _Target(NamedTuple):
    resource: Resource
    namespace: str
    name: str
    subresource: str = ""


class WriteGate(Protocol):
    """Whether one may write now."""

    def __call__(self) -> float:
        """Within how many seconds a write that starts now must have ended; 0 or less forbids it."""


def never_gated() -> float:
    """The gate of the Lease's own writes, and of reviews, which write nothing."""
    return float("inf")


class Client:
    """Asks and tells one API server."""

    def __init__(self, transport: Transport, gate: WriteGate) -> None:
        self._transport = transport
        self._gate = gate

    def ungated(self) -> Client:
        """The same without the gate: for the Lease itself and for TokenReviews."""
        return Client(self._transport, never_gated)

    async def get(self, resource: Resource, namespace: str, name: str, *, metadata_only: bool = False) -> Raw:
        """One object."""
        accept = Selection(metadata_only=metadata_only).accept()
        path = resource.path(namespace, name)
        about = _about(namespace, name)
        return await self._read(Request("get", "GET", resource.plural, path, about=about, accept=accept))

    async def list_pages(
        self, resource: Resource, selection: Selection = EVERYTHING, *, limit: int = PAGE
    ) -> AsyncGenerator[ListPage, None]:
        """All objects, page by page. Gone in the middle means: from the start."""
        token = ""
        while True:
            query = selection.query(**{"limit": str(limit), "continue": token})
            answer = await self._read(self._list_request("list", resource, selection, query, "List"))
            metadata = answer.get("metadata") or {}
            yield ListPage(answer.get("items") or [], metadata.get("resourceVersion") or "")
            token = metadata.get("continue") or ""
            if not token:
                return

    async def watch(
        self, resource: Resource, resource_version: str, selection: Selection = EVERYTHING
    ) -> AsyncGenerator[tuple[str, Raw], None]:
        """(ADDED | MODIFIED | DELETED | BOOKMARK, object) until the server ends the stream."""
        query = selection.query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=str(random.randint(*WATCH_SECONDS)),  # noqa: S311
        )
        request = self._list_request("watch", resource, selection, query)
        lines = LineSplitter()
        async with aclosing(self._transport.stream(request, silence_s=SILENCE_S)) as chunks:
            async for chunk in chunks:
                for line in lines.feed(chunk):
                    event = orjson.loads(line)
                    if event["type"] == "ERROR":
                        raise from_status(event["object"], request.asked)
                    yield event["type"], event["object"]

    async def create(self, resource: Resource, body: Raw) -> Raw:
        """POST; AlreadyExists when the name is taken, BadRequest when a field does not exist.

        Pods hold what users wrote. The server would drop a misspelt field and make the pod without
        it: nobody would learn that an affinity was never there.
        """
        namespace, name = _names(body)
        about = _about(namespace, name)
        path, data = resource.path(namespace), orjson.dumps(body)
        request = Request("create", "POST", resource.plural, path, about=about, query=STRICT, body=data)
        return await self._write(request)

    async def update(self, resource: Resource, body: Raw, *, subresource: str = "") -> Raw:
        """PUT; Conflict when the stored resourceVersion is another."""
        return await self._change("update", "PUT", _Target(resource, *_names(body), subresource), body)

    async def update_status(self, resource: Resource, body: Raw) -> Raw:
        """PUT on /status; Conflict when the stored resourceVersion is another."""
        return await self.update(resource, body, subresource="status")

    async def apply(
        self, resource: Resource, body: Raw, *, manager: str, force: bool = True, subresource: str = ""
    ) -> Raw:
        """Server-side apply: the fields in body become ours, those we had and left out go."""
        target = _Target(resource, *_names(body), subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self._change("apply", "PATCH", target, body, content_type=APPLY_PATCH, query=query)

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, operations: list[Raw], *, subresource: str = ""
    ) -> Raw:
        """RFC 6902; a ``test`` that fails is an Invalid."""
        target = _Target(resource, namespace, name, subresource)
        return await self._change("patch", "PATCH", target, operations, content_type=JSON_PATCH)

    async def merge_patch(
        self, resource: Resource, namespace: str, name: str, patch: Raw, *, subresource: str = ""
    ) -> Raw:
        """RFC 7386; with metadata.resourceVersion in it, a Conflict when the stored one is another."""
        target = _Target(resource, namespace, name, subresource)
        return await self._change("patch", "PATCH", target, patch, content_type=MERGE_PATCH)

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str,
        grace_period_s: int | None = None,
        propagation: str = "Background",
    ) -> None:
        """Delete the very object with this uid; Conflict when the name means another by now."""
        options: Raw = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        await self._change("delete", "DELETE", _Target(resource, namespace, name), options)

    async def _change(
        self,
        verb: str,
        method: str,
        target: _Target,
        body: Any,
        *,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Raw:
        resource, namespace, name, subresource = target
        request = Request(
            verb,
            method,
            f"{resource.plural}/{subresource}" if subresource else resource.plural,
            resource.path(namespace, name, subresource),
            about=_about(namespace, name),
            query=query,
            body=orjson.dumps(body),
            content_type=content_type,
        )
        return await self._write(request)

    async def _write(self, request: Request) -> Raw:
        window = self._gate()
        if window <= 0:
            raise LeaseLost(f"{request.asked}: not sent, the lease is not surely ours")
        return _object(await self._transport.call(request, timeout_s=window))

    async def _read(self, request: Request) -> Raw:
        for attempt in range(1, READ_ATTEMPTS):
            try:
                return _object(await self._transport.call(request))
            except Transient as error:
                pause = random.uniform(0.5, 1.0) * 0.2 * 4**attempt  # noqa: S311  (jitter)
                await asyncio.sleep(max(error.retry_after_s, pause))
        return _object(await self._transport.call(request))

    def _list_request(
        self, verb: str, resource: Resource, selection: Selection, query: Mapping[str, str], kind: str = ""
    ) -> Request:
        return Request(
            verb,
            "GET",
            resource.plural,
            resource.path(selection.namespace),
            about=selection.namespace,
            query=query,
            accept=selection.accept(kind),
        )


def _object(body: bytes) -> Raw:
    return orjson.loads(body)  # type: ignore[no-any-return]


def _names(body: Raw) -> tuple[str, str]:
    metadata = body.get("metadata") or {}
    return metadata.get("namespace") or "", metadata.get("name") or ""


def _about(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name
