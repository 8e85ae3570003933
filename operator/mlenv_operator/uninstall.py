"""What the chart's hook runs after the operator is gone: nothing may wait for a finalizer of ours."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from mlenv_api.names import ACCOUNTED_FINALIZER, LABEL_MANAGED_BY, LABEL_MANAGED_BY_VALUE
from mlenv_operator.kube.client import Client, Selection, never_gated
from mlenv_operator.kube.errors import Conflict, Invalid, NotFound
from mlenv_operator.kube.executor import strip_finalizer
from mlenv_operator.kube.resources import CONTROLLER_REVISIONS, LEASES, PODS, TRAINING_JOBS
from mlenv_operator.kube.sources import list_metadata
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from typing import Any

    from mlenv_operator.kube.resources import Resource
    from mlenv_operator.settings import Settings

log = logging.getLogger(__name__)
OPERATORS: Final = "app.kubernetes.io/component=operator,app.kubernetes.io/name=mlenv"
OPERATOR_ENDS_WITHIN_S: Final = 60.0
OURS: Final = Selection(label_selector=f"{LABEL_MANAGED_BY}={LABEL_MANAGED_BY_VALUE}")


async def strip_finalizers(settings: Settings, user_agent: str) -> None:
    """Remove our finalizer from every pod, and what nobody owns. Pods that run go on running."""
    async with connect(user_agent=user_agent, kubeconfig=settings.kubeconfig or None) as transport:
        client = Client(transport, never_gated)
        await _await_operator(client, settings)
        while pods := [one for one in await list_metadata(client, PODS, OURS) if _has_finalizer(one)]:
            for metadata in pods:
                await _strip(client, metadata)
            log.info("removed %s from %d pods", ACCOUNTED_FINALIZER, len(pods))
        await _delete_revisions(client)
        await _delete_lease(client, settings)


async def _await_operator(client: Client, settings: Settings) -> None:
    """Wait for the operator's own pods to end: one that still runs could make a pod behind our back."""
    operators = Selection(namespace=settings.namespace, label_selector=OPERATORS)
    deadline = asyncio.get_running_loop().time() + OPERATOR_ENDS_WITHIN_S
    while await list_metadata(client, PODS, operators):
        if asyncio.get_running_loop().time() > deadline:
            log.warning("the operator's pods are still there; going on without waiting for them")
            return
        await asyncio.sleep(0.5)


def _has_finalizer(metadata: dict[str, Any]) -> bool:
    return ACCOUNTED_FINALIZER in (metadata.get("finalizers") or ())


async def _strip(client: Client, metadata: dict[str, Any]) -> None:
    position = metadata["finalizers"].index(ACCOUNTED_FINALIZER)
    namespace, name = metadata["namespace"], metadata["name"]
    try:
        await strip_finalizer(client, namespace, name, uid=metadata["uid"], position=position)
    except (NotFound, Invalid, Conflict):
        log.debug("pod %s/%s changed meanwhile: the next round sees it", namespace, name)


async def _delete_revisions(client: Client) -> None:
    """Snapshots have no owner: they go with the last job."""
    try:
        if await list_metadata(client, TRAINING_JOBS):
            return
    except NotFound:
        log.info("there is no TrainingJob: its CRD is gone")
    for metadata in await list_metadata(client, CONTROLLER_REVISIONS, OURS):
        await _delete(client, CONTROLLER_REVISIONS, metadata)


async def _delete_lease(client: Client, settings: Settings) -> None:
    try:
        lease = await client.get(LEASES, settings.namespace, settings.lease_name)
    except NotFound:
        return
    await _delete(client, LEASES, lease["metadata"])


async def _delete(client: Client, resource: Resource, metadata: dict[str, Any]) -> None:
    namespace, name = metadata["namespace"], metadata["name"]
    try:
        await client.delete(resource, namespace, name, uid=metadata["uid"])
    except (NotFound, Conflict):
        log.debug("%s %s/%s is gone already", resource.plural, namespace, name)
