"""A cluster that stands still, as an API server would tell of it: jobs that run, their pods and Services."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from aiohttp import web

from crowd.jobs import NAME, training_jobs
from mlenv_api import names
from mlenv_operator.core import actions as act
from mlenv_operator.core.plan import plan
from mlenv_operator.core.project import parse_job, project_pod
from mlenv_operator.core.world import World

Raw = dict[str, Any]
NAMESPACE: Final = "footprint"
CREATED: Final = datetime(2026, 1, 1, tzinfo=UTC)
STAMP: Final = "2026-01-01T00:00:00Z"
MODEL: Final = NAME.format(0)
UID: Final = "11111111-1111-4111-8111-{:012d}"
PODS_PER_NODE: Final = 100
MOST_PODS: Final = 16
"""Of a job: addresses are numbered."""


def running_job(pods: int) -> tuple[Raw, list[Raw]]:
    """A job as it is stored once all its pods run, and those pods: by the real plan."""
    job = training_jobs(pods, None).manifest(MODEL, NAMESPACE)
    job["metadata"] |= {
        "uid": UID.format(0),
        "resourceVersion": "1",
        "generation": 1,
        "creationTimestamp": STAMP,
    }
    job["metadata"]["managedFields"] = [_managed("bench", job["spec"]), _managed("mlenv-operator", {})]
    made: list[Raw] = []
    for turn in range(20):
        now = CREATED + timedelta(seconds=turn)
        views = tuple(view for one in made if (view := project_pod(one)) is not None)
        found = plan(
            World(now=now, job=parse_job(job), pods=views, has_service=True, listening_since=CREATED)
        )
        made += [_running(one.manifest) for one in found.actions if isinstance(one, act.CreatePod)]
        if found.status is not None:
            job["status"] = found.status.wire()
        elif made:
            return job, made
    raise AssertionError("the job does not come to rest")


def _running(manifest: Raw) -> Raw:
    """A pod as a kubelet leaves it, with what the API server adds."""
    meta = {
        **manifest["metadata"],
        "uid": UID.format(0)[::-1],
        "resourceVersion": "1",
        "creationTimestamp": STAMP,
        "managedFields": [_managed(one, manifest["spec"]) for one in ("mlenv-operator", "kwok")],
    }
    state = {"name": names.TRAINER_CONTAINER, "image": "x", "imageID": "x", "ready": True, "restartCount": 0}
    kinds = ("Initialized", "Ready", "ContainersReady", "PodScheduled")
    return {
        **manifest,
        "metadata": meta,
        "spec": {**manifest["spec"], "nodeName": "fake-0", "schedulerName": "default-scheduler"},
        "status": {
            "phase": "Running",
            "conditions": [{"type": one, "status": "True", "lastTransitionTime": STAMP} for one in kinds],
            "hostIP": "10.1.0.1",
            "podIP": "10.99.0.1",
            "podIPs": [{"ip": "10.99.0.1"}],
            "startTime": STAMP,
            "containerStatuses": [{**state, "state": {"running": {"startedAt": STAMP}}}],
        },
    }


def _managed(manager: str, spec: Raw) -> Raw:
    """Who set what: about as long as the thing itself."""
    fields: Raw = {f"f:{name}": {} for name in _paths(spec)}
    return {
        "manager": manager,
        "operation": "Update",
        "time": STAMP,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }


def _paths(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [path for name, one in value.items() for path in (name, *_paths(one))]
    return [path for one in value for path in _paths(one)] if isinstance(value, list) else []


VERSIONS: Final = [{"groupVersion": names.API_VERSION, "version": names.VERSION}]
DISCOVERY: Final[dict[str, Raw]] = {
    "/api": {"versions": []},
    "/apis": {"groups": [{"name": names.GROUP, "versions": VERSIONS, "preferredVersion": VERSIONS[0]}]},
    f"/apis/{names.API_VERSION}": {
        "resources": [
            {
                "name": names.TRAINING_JOBS,
                "singularName": "trainingjob",
                "namespaced": True,
                "kind": names.TRAINING_JOB,
                "verbs": ["get", "list", "watch", "patch", "update"],
            }
        ]
    },
}


class Still:
    """The objects, each as the bytes that a list shows; every write is counted."""

    def __init__(self, jobs: int, pods: int) -> None:
        job, gang = running_job(pods)
        service = {"metadata": {"name": MODEL, "namespace": NAMESPACE}}
        service["metadata"]["ownerReferences"] = gang[0]["metadata"]["ownerReferences"]
        service["metadata"] |= {"uid": UID.format(0), "resourceVersion": "1"}
        nodes = jobs * pods // PODS_PER_NODE + 1
        self.lists = {
            names.TRAINING_JOBS: [
                _numbered(job, number, node=number * pods // PODS_PER_NODE) for number in range(jobs)
            ],
            "services": [_numbered(service, number) for number in range(jobs)],
            "pods": [
                _numbered(one, number, index, node=number * pods // PODS_PER_NODE)
                for number in range(jobs)
                for index, one in enumerate(gang)
            ],
            "nodes": [_node(number) for number in range(nodes)],
        }
        self.writes = 0
        self.lease: Raw | None = None

    async def get(self, request: web.Request) -> web.StreamResponse:
        """A list, a watch on which nothing happens, the Lease, or one object."""
        plural = request.path.rpartition("/")[2]
        if request.query.get("watch"):
            return await self._silence(request)
        if request.path in DISCOVERY:
            return _answer(DISCOVERY[request.path])
        if "/leases/" in request.path:
            return _answer(self.lease) if self.lease else _missing()
        if plural.startswith("g0"):
            return _missing()
        return self._page(self.lists.get(plural, []), request)

    async def write(self, request: web.Request) -> web.Response:
        """Only the Lease is kept."""
        body = orjson.loads(await request.read())
        if "/leases" in request.path:
            version = int(self.lease["metadata"]["resourceVersion"]) + 1 if self.lease else 1
            self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
            return _answer(self.lease)
        self.writes += 1
        return _answer(body)

    async def count(self, _: web.Request) -> web.Response:
        """Writes but for those of the Lease."""
        return web.json_response(self.writes)

    def _page(self, items: list[bytes], request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue") or 0), int(request.query.get("limit") or len(items))
        end = start + limit
        meta: Raw = {"resourceVersion": "1", **({"continue": str(end)} if end < len(items) else {})}
        body = b'{"kind":"List","apiVersion":"v1","metadata":%b,"items":[%b]}'
        text = body % (orjson.dumps(meta), b",".join(items[start:end]))
        return web.Response(body=text, content_type="application/json")

    async def _silence(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await asyncio.sleep(3600)
        return response


def _numbered(model: Raw, number: int, index: int = 0, node: int = 0) -> bytes:
    """The same object of another job, with names, uids and an address of its own."""
    text = orjson.dumps(model)
    pod_uid = f"{number:08d}-2222-4222-8222-{index:012d}"
    serial = number * MOST_PODS + index
    ip = f"10.{serial >> 16 & 255}.{serial >> 8 & 255}.{serial & 255}"
    for old, new in (
        (MODEL, NAME.format(number)),
        (UID.format(0)[::-1], pod_uid),
        (UID.format(0), UID.format(number)),
        ("10.99.0.1", ip),
        ("fake-0", f"fake-{node}"),
    ):
        text = text.replace(old.encode(), new.encode())
    return text


def _node(number: int) -> bytes:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": STAMP}
    meta = {"name": f"fake-{number}", "uid": f"node-{number}", "resourceVersion": "1"}
    return orjson.dumps({"metadata": meta, "status": {"conditions": [ready]}})


def _answer(body: Raw) -> web.Response:
    return web.Response(body=orjson.dumps(body), content_type="application/json")


def _missing() -> web.Response:
    return web.json_response(
        {"kind": "Status", "code": 404, "reason": "NotFound", "message": "no"}, status=404
    )


async def serve(still: Still, port: int) -> None:
    """Until the process is ended."""
    app = web.Application()
    app.router.add_get("/writes", still.count)
    app.router.add_get("/{path:.*}", still.get)
    app.router.add_route("*", "/{path:.*}", still.write)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()
