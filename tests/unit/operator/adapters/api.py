"""An API server in memory: as much of one as the operator's shell asks, with faults on demand."""

from __future__ import annotations

import copy
import random
from typing import TYPE_CHECKING, Any, cast

from mlenv_operator.adapters.beatstore import BeatStore
from mlenv_operator.adapters.caches import build_caches
from mlenv_operator.adapters.jobs import JobCache
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.neighbours import Neighbours
from mlenv_operator.adapters.overlay import Overlay
from mlenv_operator.adapters.pace import Pace
from mlenv_operator.adapters.rejections import Rejections
from mlenv_operator.adapters.state import State
from mlenv_operator.kube import errors
from mlenv_operator.kube.client import ListPage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from mlenv_operator.kube.client import Client
    from mlenv_operator.kube.resources import Resource
    from mlenv_operator.runtime.clock import Clock

Raw = dict[str, Any]
Fault = Exception


def empty_state(clock: Clock, api: MemoryApi | None = None) -> State:
    """What the operator keeps, before it has seen anything."""
    return State(
        clock=clock,
        jobs=JobCache(),
        caches=build_caches(cast("Client", api), clock, random.Random(1), Metrics()),
        beats=BeatStore(clock),
        overlay=Overlay(clock),
        rejections=Rejections(clock),
        neighbours=Neighbours(),
        pace=Pace(clock, lambda: 1, 50.0),
    )


class MemoryApi:
    """Objects by kind, namespace and name; ``fails`` decides before each write whether it fails."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Raw] = {}
        self.writes: list[tuple[str, str, str]] = []
        self.fails: Callable[[str, str, str], Fault | None] = lambda *_: None
        self._version = 100

    def add(self, resource: Resource, body: Raw) -> Raw:
        """Store an object, as somebody else would."""
        self._version += 1
        stored = copy.deepcopy(body)
        metadata = stored["metadata"]
        metadata.setdefault("uid", f"uid-{metadata['name']}")
        metadata["resourceVersion"] = str(self._version)
        self.objects[resource.plural, metadata.get("namespace", ""), metadata["name"]] = stored
        return copy.deepcopy(stored)

    async def get(self, resource: Resource, namespace: str, name: str) -> Raw:
        found = self.objects.get((resource.plural, namespace, name))
        if found is None:
            raise errors.NotFound("no such object", code=404)
        return copy.deepcopy(found)

    async def create(self, resource: Resource, body: Raw) -> Raw:
        namespace, name = body["metadata"].get("namespace", ""), body["metadata"]["name"]
        self._write("create", resource, name)
        if (resource.plural, namespace, name) in self.objects:
            raise errors.AlreadyExists(f"{name} already exists", code=409)
        return self.add(resource, body)

    async def update_status(self, resource: Resource, body: Raw) -> Raw:
        metadata = body["metadata"]
        self._write("status", resource, metadata["name"])
        stored = await self.get(resource, metadata.get("namespace", ""), metadata["name"])
        if stored["metadata"]["resourceVersion"] != metadata["resourceVersion"]:
            raise errors.Conflict("the object has been modified", code=409)
        return self.add(resource, stored | {"status": body["status"]})

    async def delete(self, resource: Resource, namespace: str, name: str, *, uid: str) -> None:
        self._write("delete", resource, name)
        stored = await self.get(resource, namespace, name)
        if stored["metadata"]["uid"] != uid:
            raise errors.Conflict("another uid", code=409)
        del self.objects[resource.plural, namespace, name]

    async def json_patch(self, resource: Resource, namespace: str, name: str, _: list[Raw]) -> Raw:
        self._write("patch", resource, name)
        stored = await self.get(resource, namespace, name)
        stored["metadata"]["finalizers"] = []
        return self.add(resource, stored)

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Raw) -> Raw:
        """Of data only."""
        self._write("patch", resource, name)
        stored = await self.get(resource, namespace, name)
        return self.add(resource, stored | {"data": stored.get("data", {}) | patch["data"]})

    async def list_pages(self, resource: Resource, _: Any = None) -> AsyncIterator[ListPage]:
        every = [copy.deepcopy(one) for key, one in self.objects.items() if key[0] == resource.plural]
        yield ListPage(every, str(self._version))

    def _write(self, verb: str, resource: Resource, name: str) -> None:
        fault = self.fails(verb, resource.plural, name)
        if fault is not None:
            raise fault
        self.writes.append((verb, resource.plural, name))
