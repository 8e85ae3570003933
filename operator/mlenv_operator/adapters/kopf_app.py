"""The watch on our own kinds, through kopf: a trigger, never the truth (a re-list tells of no deletions)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import kopf

from mlenv_operator.adapters.kopf_settings import connection_info, kopf_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kubernetes.aio.client.configuration import Configuration

    from mlenv_operator.kube.resources import Resource

    OnEvent = Callable[[str | None, str, str, str, dict[str, Any]], None]


def build_registry(
    resources: Iterable[Resource], on_event: OnEvent, configuration: Configuration
) -> kopf.OperatorRegistry:
    """Handlers that pass on (type, namespace, name, uid, raw); the type is None for what a list told."""
    registry = kopf.OperatorRegistry()

    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        raw = cast("dict[str, Any]", event["object"])
        metadata = raw["metadata"]
        on_event(event["type"], metadata.get("namespace", ""), metadata["name"], metadata["uid"], raw)

    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await connection_info(configuration)

    for resource in resources:
        kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(changed)
    kopf.on.login(registry=registry)(login)
    return registry


async def run_kopf(
    registry: kopf.OperatorRegistry, stop: asyncio.Event, on_ready: Callable[[], object]
) -> None:
    """Watch until told to stop, or until kopf fails.

    ``on_ready`` is for the application to take the signal handlers back, which kopf claims for itself. When
    kopf ends it cancels every task that was created after it began: let it be the last to end.
    """
    ready = asyncio.Event()
    waiter = asyncio.create_task(_then(ready, on_ready))
    try:
        await kopf.operator(
            registry=registry,
            settings=kopf_settings(),
            standalone=True,
            # Never used, but unless it is given kopf asks for a user name, and a container's user has none.
            identity=cast("Any", "mlenv-operator"),
            clusterwide=True,
            stop_flag=stop,
            ready_flag=ready,
        )
    finally:
        waiter.cancel()


async def _then(event: asyncio.Event, call: Callable[[], object]) -> None:
    await event.wait()
    call()
