"""Statuses of objects in no namespace: each written by the leader, of the version that was looked at."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from mlenv_operator.kube.errors import ApiError, Conflict, LeaseLost, NotFound
from mlenv_operator.runtime.workqueue import QueueShutDown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mlenv_operator.kube.client import Client
    from mlenv_operator.kube.resources import Resource
    from mlenv_operator.runtime.workqueue import WorkQueue

log = logging.getLogger(__name__)


class Version(Protocol):
    """One version of an object, as it was seen."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def uid(self) -> str:
        """Its UID."""

    @property
    def generation(self) -> int:
        """Of its spec."""


async def work(queue: WorkQueue[str], kind: str, write: Callable[[str], Awaitable[None]]) -> None:
    """Have the status of each name written, one after the other, until the queue is shut down."""
    with suppress(QueueShutDown):
        while True:
            name = await queue.get()
            try:
                await write(name)
                queue.forget(name)
            except (ApiError, Conflict, LeaseLost) as error:
                again = queue.add_failed(name)
                log.info("the status of %s %s is not written: %s; again in %.0f s", kind, name, error, again)
            finally:
                queue.done(name)


async def current(client: Client, resource: Resource, view: Version) -> dict[str, Any] | None:
    """The object as it is stored; None when it is gone, or of another version: then the watch will tell."""
    try:
        raw = await client.get(resource, "", view.name)
    except NotFound:
        return None
    same = (raw["metadata"]["uid"], raw["metadata"].get("generation", 0)) == (view.uid, view.generation)
    return raw if same else None
