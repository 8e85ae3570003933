"""What the operator believes about API servers, asked of a real one."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from typing import TYPE_CHECKING, Any

import pytest
from operator_process import operator_process

from mlenv_api import names
from mlenv_operator.adapters.caches import build_caches
from mlenv_operator.adapters.kopf_app import build_registry, run_kopf
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.tokens import NotOursError, TokenAuthenticator, TokenError
from mlenv_operator.kube import errors
from mlenv_operator.kube.client import Client, Selection
from mlenv_operator.kube.leases import KubeLeaseStore
from mlenv_operator.kube.resources import LEASES, PODS, TRAINING_JOBS, Resource
from mlenv_operator.kube.sources import KindSource, list_metadata
from mlenv_operator.kube.tokens import review_token
from mlenv_operator.kube.transport import connect
from mlenv_operator.runtime.clock import SystemClock
from mlenv_operator.runtime.informer import Informer
from mlenv_operator.runtime.lease import Lease, LeaseTiming
from mlenv_operator.runtime.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from mlenv_operator.kube.transport import Transport

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

QUOTAS = Resource("", "v1", "resourcequotas")
DEADLINE_S = 300.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another process)
            await asyncio.sleep(0.02)


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"op-{secrets.token_hex(4)}"
    kubectl.ok("create", "namespace", name)
    yield name
    kubectl.ok("delete", "namespace", name, "--wait=false")


def pod(namespace: str, name: str = "a", **metadata: Any) -> dict[str, Any]:
    safe = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    container = {"name": "c", "image": "x:1", "securityContext": safe}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name} | metadata,
        "spec": {"containers": [container], "automountServiceAccountToken": False},
    }


@pytest.fixture
async def transport(kubectl: Kubectl) -> AsyncIterator[Transport]:
    async with connect(user_agent="mlenv-operator/test", kubeconfig=str(kubectl.kubeconfig)) as one:
        yield one


@pytest.fixture
def client(transport: Transport) -> Client:
    return Client(transport, lambda: 60.0)


async def test_an_object_from_birth_to_death(client: Client, namespace: str) -> None:
    made = await client.create(PODS, pod(namespace))
    uid = made["metadata"]["uid"]
    with pytest.raises(errors.AlreadyExists):
        await client.create(PODS, pod(namespace))
    labelled = await client.merge_patch(PODS, namespace, "a", {"metadata": {"labels": {"x": "y"}}})
    assert labelled["metadata"]["labels"] == {"x": "y"}
    with pytest.raises(errors.Conflict):
        await client.update(PODS, made)
    stale = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"], "labels": {"x": "z"}}}
    with pytest.raises(errors.Conflict):
        await client.merge_patch(PODS, namespace, "a", stale)
    failing = [{"op": "test", "path": "/metadata/labels/x", "value": "no"}]
    with pytest.raises(errors.Invalid):
        await client.json_patch(PODS, namespace, "a", failing)
    slim = await client.get(PODS, namespace, "a", metadata_only=True)
    assert slim["kind"] == "PartialObjectMetadata"
    assert "spec" not in slim
    with pytest.raises(errors.Conflict):
        await client.delete(PODS, namespace, "a", uid="another", grace_period_s=0)
    await client.delete(PODS, namespace, "a", uid=uid, grace_period_s=0)
    with pytest.raises(errors.NotFound):
        await client.get(PODS, namespace, "a")


async def test_a_finalizer_is_removed_by_a_patch_that_tests(client: Client, namespace: str) -> None:
    made = await client.create(PODS, pod(namespace, finalizers=["mlenv.io/accounted"]))
    await client.delete(PODS, namespace, "a", uid=made["metadata"]["uid"], grace_period_s=0)
    dying = await client.get(PODS, namespace, "a")
    assert dying["metadata"]["deletionTimestamp"]
    first = "/metadata/finalizers/0"
    operations = [
        {"op": "test", "path": first, "value": "mlenv.io/accounted"},
        {"op": "remove", "path": first},
    ]
    await client.json_patch(PODS, namespace, "a", operations)
    with pytest.raises(errors.NotFound):
        await client.get(PODS, namespace, "a")


def training_job(namespace: str, name: str = "job") -> dict[str, Any]:
    trainer = {"image": "x:1", "command": ["true"]}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"trainer": trainer},
    }


async def test_status_is_applied_and_updated_apart_from_the_spec(client: Client, namespace: str) -> None:
    made = await client.create(TRAINING_JOBS, training_job(namespace))
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"namespace": namespace, "name": "job"},
        "status": {"observedGeneration": 1},
    }
    applied = await client.apply(TRAINING_JOBS, body, manager=names.FIELD_MANAGER, subresource="status")
    assert applied["status"]["observedGeneration"] == 1
    applied["status"]["observedGeneration"] = 2
    updated = await client.update_status(TRAINING_JOBS, applied)
    assert updated["metadata"]["generation"] == made["metadata"]["generation"]
    with pytest.raises(errors.Conflict):
        await client.update_status(TRAINING_JOBS, applied)


async def test_the_record_of_checkpoints_is_kept_as_it_was_written(client: Client, namespace: str) -> None:
    """Also a fresh start, which is an empty object and not the same as none."""
    made = await client.create(TRAINING_JOBS, training_job(namespace))
    sealed = {"step": 41000, "attempt": 2, "digest": "0" * 64, "time": "2026-01-01T00:00:00Z"}
    status = {
        "attempt": {"number": 2, "state": "Running", "since": "2026-01-01T00:00:00Z", "origin": {}},
        "checkpoint": {
            "sealed": sealed,
            "sane": dict(sealed),
            "insane": {**sealed, "step": 41200, "failed": [{"check": "probe", "message": "it raised"}]},
            "ceilingStep": 45000,
            "sinceAttempt": 2,
            "spool": "claim",
        },
    }
    stored = await client.update_status(TRAINING_JOBS, made | {"status": status})
    assert stored["status"]["attempt"]["origin"] == {}
    assert stored["status"]["checkpoint"] == status["checkpoint"]
    sealed["digest"] = "no digest"
    with pytest.raises(errors.Invalid):
        await client.update_status(TRAINING_JOBS, stored | {"status": status})


async def test_causes_of_an_invalid_object(client: Client, namespace: str) -> None:
    bad = training_job(namespace)
    bad["spec"]["trainer"]["numNodes"] = -1
    with pytest.raises(errors.Invalid) as caught:
        await client.create(TRAINING_JOBS, bad)
    assert any(cause.field == "spec.trainer.numNodes" for cause in caught.value.causes)


async def test_pod_security(client: Client, kubectl: Kubectl, namespace: str) -> None:
    kubectl.ok("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    bad = pod(namespace)
    bad["spec"]["hostNetwork"] = True
    with pytest.raises(errors.RejectedByPolicy) as caught:
        await client.create(PODS, bad)
    assert caught.value.policy is errors.Policy.POD_SECURITY
    assert "host namespaces" in caught.value.message


async def test_quota(client: Client, namespace: str) -> None:
    hard = {"pods": "0"}
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"namespace": namespace, "name": "none"},
        "spec": {"hard": hard},
    }
    made = await client.create(QUOTAS, quota)
    # What kube-controller-manager would write.
    await client.update_status(QUOTAS, made | {"status": {"hard": hard, "used": {"pods": "0"}}})
    refused: list[errors.RejectedByPolicy] = []
    async with asyncio.timeout(DEADLINE_S):  # the admission plugin's cache follows
        while not refused:
            try:
                await client.create(PODS, pod(namespace, f"p{secrets.token_hex(4)}"))
            except errors.RejectedByPolicy as error:
                refused.append(error)
    assert refused[0].policy is errors.Policy.QUOTA


async def test_admission_policy(client: Client, kubectl: Kubectl, namespace: str) -> None:
    name = f"no-{namespace}"
    api = "admissionregistration.k8s.io/v1"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    policy = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": "false", "message": "never"}],
        },
    }
    match = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
    binding = {
        "apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": match},
    }
    kubectl.ok("create", "-f", "-", stdin=policy)
    kubectl.ok("create", "-f", "-", stdin=binding)
    try:
        await _refused_by(client, namespace, errors.Policy.ADMISSION_POLICY)
    finally:
        kubectl.ok("delete", "validatingadmissionpolicybinding,validatingadmissionpolicy", name)


async def _refused_by(client: Client, namespace: str, policy: errors.Policy) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.create(PODS, pod(namespace, f"p{secrets.token_hex(4)}"))
            except errors.RejectedByPolicy as error:
                assert error.policy is policy  # noqa: PT017
                return


async def test_a_namespace_that_ends(client: Client, kubectl: Kubectl) -> None:
    name = f"end-{secrets.token_hex(4)}"
    kubectl.ok("create", "namespace", name)
    kubectl.ok("delete", "namespace", name, "--wait=false")  # no controller: it stays Terminating
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await client.create(PODS, pod(name, f"p{secrets.token_hex(4)}"))
            except errors.NamespaceTerminating:
                return


def account(kubectl: Kubectl, namespace: str, *args: str) -> str:
    kubectl.run("create", "serviceaccount", "who", "-n", namespace)
    return kubectl.ok("create", "token", "who", "-n", namespace, *args).strip()


async def test_what_rbac_refuses_is_no_policy(kubectl: Kubectl, namespace: str, tmp_path: Path) -> None:
    config = json.loads(kubectl.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": account(kubectl, namespace)}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    async with connect(user_agent="x", kubeconfig=str(path)) as transport:
        client = Client(transport, lambda: 60.0)
        with pytest.raises(errors.Forbidden, match="cannot create resource") as caught:
            await client.create(PODS, pod(namespace))
        assert type(caught.value) is errors.Forbidden
        config["users"][0]["user"] = {"token": "forged"}
    path.write_text(json.dumps(config))
    async with connect(user_agent="x", kubeconfig=str(path)) as transport:
        with pytest.raises(errors.Unauthorized):
            await Client(transport, lambda: 60.0).get(PODS, namespace, "a")


async def test_an_informer_reads_pages_and_follows(client: Client, namespace: str) -> None:
    for n in range(7):
        await client.create(PODS, pod(namespace, f"p{n}", labels={"mine": "yes"}))
    await client.create(PODS, pod(namespace, "other"))
    selection = Selection(namespace=namespace, label_selector="mine=yes")
    pages = [page async for page in client.list_pages(PODS, selection, limit=3)]
    assert [len(page.items) for page in pages] == [3, 3, 1]
    assert len({page.resource_version for page in pages}) == 1, "one consistent list"
    assert {one["name"] for one in await list_metadata(client, PODS, selection)} == {
        f"p{n}" for n in range(7)
    }

    view: Reflector[str] = Reflector(lambda raw: raw["metadata"]["name"])
    informer = Informer("pods", KindSource(client, PODS, selection), view, SystemClock(), random.Random(1))
    seen: list[str] = []
    informer.on_change(lambda change: seen.append(f"{change.type} {change.key.name}"))
    task = asyncio.create_task(informer.run())
    try:
        await until(lambda: informer.synced)
        assert len(informer) == 7
        await client.create(PODS, pod(namespace, "late", labels={"mine": "yes"}))
        await until(lambda: "Added late" in seen)
        # Out of the selection is gone, as far as this informer goes.
        await client.merge_patch(PODS, namespace, "p0", {"metadata": {"labels": {"mine": "no"}}})
        await until(lambda: "Deleted p0" in seen)
    finally:
        task.cancel()


async def test_metadata_is_watched_without_bodies(client: Client, namespace: str) -> None:
    await client.create(PODS, pod(namespace))
    selection = Selection(namespace=namespace, metadata_only=True)
    (page,) = [page async for page in client.list_pages(PODS, selection)]
    await client.create(PODS, pod(namespace, "b"))
    events = client.watch(PODS, page.resource_version, selection)
    kind, raw = await anext(events)
    await events.aclose()
    assert (kind, raw["metadata"]["name"], "spec" in raw) == ("ADDED", "b", False)


async def test_two_candidates_and_one_lease(client: Client, namespace: str) -> None:
    # The first one's would run out too late for this test: the second gets it because it is given away.
    long = LeaseTiming(duration_s=10 * DEADLINE_S, renew_deadline_s=5 * DEADLINE_S, retry_period_s=0.3)
    short = LeaseTiming(duration_s=6, renew_deadline_s=4, retry_period_s=0.3)
    clock = SystemClock()

    def candidate(name: str, timing: LeaseTiming) -> Lease:
        store = KubeLeaseStore(client, namespace, "lead")
        return Lease(
            store,
            clock,
            random.Random(name),
            identity=name,
            address=f"http://{name}",
            address_annotation=names.ANNOTATION_ADDRESS,
            timing=timing,
        )

    first, second = candidate("a", long), candidate("b", short)
    await first.acquire()
    keeper, waiter = asyncio.create_task(first.keep()), asyncio.create_task(second.acquire())
    await until(lambda: second.leader_address == "http://a")
    stored = await client.get(LEASES, namespace, "lead")
    assert stored["spec"]["holderIdentity"] == "a"
    assert stored["spec"]["renewTime"].endswith("Z")
    keeper.cancel()
    await asyncio.gather(keeper, return_exceptions=True)
    await first.release()
    async with asyncio.timeout(DEADLINE_S):
        await waiter
    assert second.transitions == first.transitions + 1
    third = candidate("c", short)
    async with asyncio.timeout(DEADLINE_S):  # the second dies without a word
        await third.acquire()
    assert not second.surely_ours(clock.monotonic())
    assert third.transitions == second.transitions + 1


async def test_the_lease_is_renewed_while_all_other_connections_are_taken(
    client: Client, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    clock, rng = SystemClock(), random.SystemRandom()
    watches = len(build_caches(client, clock, rng, Metrics()).all())
    store = KubeLeaseStore(client, namespace, names.LEASE_NAME)
    renewals: set[str] = set()
    log, few = tmp_path / "operator.log", {"MLENV_OPERATOR_API_CONNECTIONS": str(watches)}
    with operator_process(kubectl.kubeconfig, namespace, log, **few) as process:
        async with asyncio.timeout(DEADLINE_S):
            while len(renewals) < 3:
                assert process.poll() is None, log.read_text()
                lease = await store.read()
                renewals |= {lease["spec"]["renewTime"]} if lease else set()
                await asyncio.sleep(0.05)


async def test_tokens(client: Client, kubectl: Kubectl, namespace: str) -> None:
    us = names.TOKEN_AUDIENCE
    account(kubectl, namespace)
    body = pod(namespace)
    body["spec"]["serviceAccountName"] = "who"
    made = await client.create(PODS, body)
    uid = made["metadata"]["uid"]
    bound = ("--bound-object-kind=Pod", "--bound-object-name=a")

    def authenticator(is_live: Callable[[str], bool]) -> TokenAuthenticator:
        def review(token: str) -> Awaitable[dict[str, Any]]:
            return review_token(client, token, us)

        return TokenAuthenticator(review, is_live, SystemClock(), audience=us)

    good = account(kubectl, namespace, f"--audience={us}", *bound)
    tokens = authenticator(lambda one: one == uid)
    who = await tokens.authenticate(good)
    assert (who.namespace, who.pod_name, who.pod_uid, who.service_account) == (namespace, "a", uid, "who")
    with pytest.raises(TokenError, match="does not accept"):
        await tokens.authenticate(account(kubectl, namespace, *bound))  # meant for the API server
    with pytest.raises(TokenError, match="not bound to a pod"):
        await tokens.authenticate(account(kubectl, namespace, f"--audience={us}"))
    with pytest.raises(TokenError, match="does not accept"):
        await tokens.authenticate(good[:-8] + "AAAAAAAA")
    with pytest.raises(NotOursError):
        await authenticator(lambda _: False).authenticate(good)
    await client.delete(PODS, namespace, "a", uid=uid, grace_period_s=0)

    async def until_refused() -> None:
        async with asyncio.timeout(DEADLINE_S):  # the server itself remembers a token for ten seconds
            while True:
                await authenticator(lambda _: True).authenticate(good)

    with pytest.raises(TokenError, match="deleted pod"):
        await until_refused()


async def test_kopf_hands_events_over_and_writes_nothing(
    client: Client, transport: Transport, namespace: str
) -> None:
    seen: list[tuple[str | None, str]] = []

    def on_event(kind: str | None, where: str, name: str, uid: str, raw: dict[str, Any]) -> None:
        assert raw["metadata"]["uid"] == uid
        if where == namespace:
            seen.append((kind, name))

    await client.create(TRAINING_JOBS, training_job(namespace, "early"))
    stop, taken_back = asyncio.Event(), list[bool]()
    registry = build_registry([TRAINING_JOBS], on_event, transport.configuration)
    task = asyncio.create_task(run_kopf(registry, stop, lambda: taken_back.append(True)))
    try:
        await until(lambda: task.done() or (None, "early") in seen)
        assert not task.done(), task.exception()
        assert taken_back
        made = await client.create(TRAINING_JOBS, training_job(namespace, "late"))
        await until(lambda: ("ADDED", "late") in seen)
        await client.delete(TRAINING_JOBS, namespace, "late", uid=made["metadata"]["uid"])
        await until(lambda: ("DELETED", "late") in seen)
        early = await client.get(TRAINING_JOBS, namespace, "early")
        assert "annotations" not in early["metadata"]
        assert "finalizers" not in early["metadata"]
    finally:
        stop.set()
        async with asyncio.timeout(DEADLINE_S):
            await task
