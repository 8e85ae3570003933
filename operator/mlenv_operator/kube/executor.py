"""Carries out what a plan asks for."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from mlenv_api.conditions import Reason
from mlenv_api.names import ACCOUNTED_FINALIZER
from mlenv_operator.core import actions as act
from mlenv_operator.kube.errors import (
    AlreadyExists,
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Policy,
    RejectedByPolicy,
)
from mlenv_operator.kube.resources import CONTROLLER_REVISIONS, JOBS, PODS, SERVICES, TRAINING_JOBS, Resource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mlenv_operator.kube.client import Client

log = logging.getLogger(__name__)
Raw = dict[str, Any]
PER_JOB: Final = 16
"""Writes of one job that may be on their way at once: the API server has other clients too."""

_REASONS: Final = {
    Policy.QUOTA: Reason.QUOTA_EXCEEDED,
    Policy.POD_SECURITY: Reason.POD_SECURITY,
    Policy.WEBHOOK: Reason.REJECTED_BY_WEBHOOK,
    Policy.ADMISSION_POLICY: Reason.REJECTED_BY_WEBHOOK,
    Policy.SERVICE_ACCOUNT: Reason.SERVICE_ACCOUNT_NOT_FOUND,
    Policy.OTHER: Reason.POD_REJECTED,  # an admission plugin: a class or limit that is named
}


class Refusal(NamedTuple):
    """The API server would not create this, for a reason that trying again at once does not change."""

    reason: Reason
    what: str
    message: str


class Done(NamedTuple):
    """An action that was carried out, and the object that the API server has now, where it told."""

    action: act.Action
    stored: Raw | None


class Result(NamedTuple):
    """What came of a plan's actions."""

    done: tuple[Done, ...]
    refusal: Refusal | None


class Executor:
    """Actions in, outcomes out. Transient errors of the API server are raised."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def run(self, actions: Sequence[act.Action]) -> Result:
        """Carry out the actions: pods side by side, all else in order and before them."""
        done: list[Done] = []
        for action in actions:
            if not _side_by_side(action):
                refusal = await self._try(action, done)
                if refusal is not None:
                    return Result(tuple(done), refusal)
        refusal = await self._run_side_by_side([one for one in actions if _side_by_side(one)], done)
        return Result(tuple(done), refusal)

    async def _run_side_by_side(self, actions: list[act.Action], done: list[Done]) -> Refusal | None:
        """After the first refusal or error nothing more begins; what is on its way is awaited."""
        waiting = iter(actions)
        refusals: list[Refusal] = []
        errors: list[Exception] = []

        async def work() -> None:
            for action in waiting:
                if refusals or errors:
                    return
                try:
                    refusal = await self._try(action, done)
                except Exception as error:  # noqa: BLE001  (raised below, once all have ended)
                    errors.append(error)
                    return
                if refusal is not None:
                    refusals.append(refusal)

        await asyncio.gather(*(work() for _ in range(min(PER_JOB, len(actions)))))
        if errors:
            raise errors[0]
        return refusals[0] if refusals else None

    async def _try(self, action: act.Action, done: list[Done]) -> Refusal | None:
        try:
            stored = await self._do(action)
        except (Forbidden, BadRequest, AlreadyExists) as error:
            return _refusal(action, error)
        done.append(Done(action, stored))
        return None

    async def _do(self, action: act.Action) -> Raw | None:
        match action:
            case act.CreateRevision(manifest):
                return await self._create_content(manifest)
            case act.CreateService(manifest):
                return await self._create_ours(SERVICES, manifest)
            case act.CreatePod(manifest):
                return await self._create_ours(PODS, manifest)
            case act.Drain(manifest):
                return await self._drain(manifest)
            case act.DeletePod(namespace, name, uid):
                await self._delete(PODS, namespace, name, uid)
            case act.StripFinalizer():
                await self._strip(action)
            case act.DeleteJob(namespace, name, uid):
                await self._delete(TRAINING_JOBS, namespace, name, uid)
        return None

    async def _create_content(self, manifest: Raw) -> Raw:
        """The name says the content: whoever made it made the same."""
        try:
            return await self._client.create(CONTROLLER_REVISIONS, manifest)
        except AlreadyExists:
            return manifest

    async def _create_ours(self, resource: Resource, manifest: Raw) -> Raw:
        """Create it, or find that we did so before; a namesake of somebody else's is an error."""
        try:
            return await self._client.create(resource, manifest)
        except AlreadyExists:
            metadata = manifest["metadata"]
            found = await self._client.get(resource, metadata["namespace"], metadata["name"])
            if _controller(found) != _controller(manifest):
                raise
            return found

    async def _drain(self, manifest: Raw) -> Raw:
        """Mostly it is there, and a read is cheaper than a write that is refused."""
        metadata = manifest["metadata"]
        try:
            found = await self._client.get(JOBS, metadata["namespace"], metadata["name"])
        except NotFound:
            return await self._create_ours(JOBS, manifest)
        if _controller(found) != _controller(manifest):
            raise AlreadyExists(f"Job {metadata['name']} is there, and is not this job's")
        return found

    async def _delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        try:
            await self._client.delete(resource, namespace, name, uid=uid)
        except (NotFound, Conflict):
            log.debug("%s %s/%s is gone already", resource.plural, namespace, name)

    async def _strip(self, action: act.StripFinalizer) -> None:
        try:
            await strip_finalizer(
                self._client, action.namespace, action.name, uid=action.uid, position=action.position
            )
        except (NotFound, Invalid, Conflict):
            log.debug("pod %s/%s changed meanwhile", action.namespace, action.name)


async def strip_finalizer(client: Client, namespace: str, name: str, *, uid: str, position: int) -> None:
    """Remove our finalizer from the very pod, where it is known to be. Invalid when a test fails."""
    path = f"/metadata/finalizers/{position}"
    operations = [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": path, "value": ACCOUNTED_FINALIZER},
        {"op": "remove", "path": path},
    ]
    await client.json_patch(PODS, namespace, name, operations)


def _side_by_side(action: act.Action) -> bool:
    return isinstance(action, (act.CreatePod, act.DeletePod, act.StripFinalizer))


def _refusal(action: act.Action, error: ApiError) -> Refusal:
    what = _what(action)
    if isinstance(error, RejectedByPolicy):
        return Refusal(_REASONS[error.policy], what, error.message)
    if isinstance(error, AlreadyExists):
        return Refusal(Reason.NAME_CONFLICT, what, error.message)
    if isinstance(error, Forbidden):
        return Refusal(Reason.FORBIDDEN, what, error.message)
    return Refusal(Reason.POD_REJECTED, what, error.message)


def _what(action: act.Action) -> str:
    match action:
        case (
            act.CreateRevision(manifest)
            | act.CreateService(manifest)
            | act.CreatePod(manifest)
            | act.Drain(manifest)
        ):
            return f"{manifest['kind']} {manifest['metadata']['name']}"
        case act.DeletePod() | act.StripFinalizer():
            return f"Pod {action.name}"
        case act.DeleteJob():
            return f"TrainingJob {action.name}"


def _controller(raw: Raw) -> str:
    owners = raw["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")
