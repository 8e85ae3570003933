"""Each mistake is rejected by a real API server, with a sentence that says what to do."""

# ruff: noqa: E501  (sentences stand whole, so that they can be searched for)

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

RESERVED = "reserved are GROUP_RANK, GROUP_WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT, NNODES, NODE_RANK, RANK, WORLD_SIZE and all that begin with MLENV_, PET_, TORCHELASTIC_: choose another name"
LONG = "metadata.name: Invalid value: the name of a TrainingJob has at most 52 characters, because its pods are named <job>-<index>-<incarnation>: choose a shorter one"
BAD_NAME = "metadata.name: Invalid value: the name of a TrainingJob begins with a letter, ends with a letter or digit, and has only lower-case letters, digits and dashes, because its Service and host names are made of it"
QUANTITY = "a quantity is a number that is not negative, as 4, 500m or 16Gi"


def job(name: str = "bad", *, trainer: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    shape = {"image": "example/image:1", "command": ["train.py"]} | (trainer or {})
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"name": name},
        "spec": {"trainer": shape} | spec,
    }


def env(*entries: dict[str, Any]) -> dict[str, Any]:
    return job(trainer={"env": list(entries)})


def low(path: str, value: int, least: int) -> str:
    return (
        f"spec.{path}: Invalid value: {value}: spec.{path} in body should be greater than or equal to {least}"
    )


SECRET = {"name": "s", "key": "k"}

REJECTED = {
    "name too long": (job("a" * 53), LONG),
    "name begins with a digit": (job("1st"), BAD_NAME),
    "name with a dot": (job("a.b"), BAD_NAME),
    "negative nodes": (job(trainer={"numNodes": -1}), low("trainer.numNodes", -1, 1)),
    "no nodes": (job(trainer={"numNodes": 0}), low("trainer.numNodes", 0, 1)),
    "negative ranks": (job(trainer={"numProcPerNode": -2}), low("trainer.numProcPerNode", -2, 1)),
    "negative restarts": (job(failurePolicy={"maxRestarts": -1}), low("failurePolicy.maxRestarts", -1, 0)),
    "negative deadline": (job(activeDeadlineSeconds=-1), low("activeDeadlineSeconds", -1, 1)),
    "negative TTL": (job(ttlSecondsAfterFinished=-1), low("ttlSecondsAfterFinished", -1, 0)),
    "limit of nothing": (
        job(cost={"limit": "0.00", "onExceeded": "Warn"}),
        "spec.cost.limit: Invalid value: a limit is more than 0: remove spec.cost to have none, or set suspend to hold the job back",
    ),
    "negative limit": (
        job(cost={"limit": "-5", "onExceeded": "Warn"}),
        'spec.cost.limit: Invalid value: "-5": spec.cost.limit in body should match',
    ),
    "limit as a number": (
        job(cost={"limit": 500, "onExceeded": "Warn"}),
        'spec.cost.limit: Invalid value: "integer": spec.cost.limit in body must be of type string: "integer"',
    ),
    "limit in euros": (
        job(cost={"limit": "500", "currency": "EUR", "onExceeded": "Warn"}),
        'spec.cost.currency: Unsupported value: "EUR": supported values: "USD"',
    ),
    "limit that does what?": (
        job(cost={"limit": "500", "onExceeded": "Delete"}),
        'spec.cost.onExceeded: Unsupported value: "Delete": supported values: "Warn", "Suspend", "Fail"',
    ),
    "limit that does nothing": (
        job(cost={"limit": "500"}),
        "spec.cost.onExceeded: Required value",
    ),
    "negative timeout": (
        job(scheduling={"assemblyTimeoutSeconds": -1}),
        low("scheduling.assemblyTimeoutSeconds", -1, 5),
    ),
    "too many nodes": (
        job(trainer={"numNodes": 1025}),
        "spec.trainer.numNodes: Invalid value: 1025: spec.trainer.numNodes in body should be less than or equal to 1024",
    ),
    "negative quantity": (
        job(trainer={"resourcesPerNode": {"limits": {"memory": "-4Gi"}}}),
        f'spec.trainer.resourcesPerNode.limits[memory]: Invalid value: "-4Gi": {QUANTITY}',
    ),
    "negative number as quantity": (
        job(trainer={"resourcesPerNode": {"requests": {"cpu": -1}}}),
        f"spec.trainer.resourcesPerNode.requests[cpu]: Invalid value: -1: {QUANTITY}",
    ),
    "no quantity": (
        job(trainer={"resourcesPerNode": {"requests": {"cpu": "many"}}}),
        f'spec.trainer.resourcesPerNode.requests[cpu]: Invalid value: "many": {QUANTITY}',
    ),
    "reserved variable": (
        env({"name": names.ENV_FORK_SERVER, "value": "0"}, {"name": "RANK", "value": "0"}),
        f"spec.trainer.env[1].name: Forbidden: RANK is set by the platform itself; {RESERVED}",
    ),
    "reserved prefix": (
        env({"name": "MLENV_X", "value": "0"}),
        f"spec.trainer.env[0].name: Forbidden: MLENV_X is set by the platform itself; {RESERVED}",
    ),
    "variable from two places": (
        env({"name": "A", "value": "hush", "valueFrom": {"secretKeyRef": SECRET}}),
        "spec.trainer.env[0].valueFrom: Forbidden: an environment variable takes value or valueFrom, not both: remove one",
    ),
    "variable from nowhere": (
        env({"name": "A"}),
        "spec.trainer.env[0].value: Required value: an environment variable needs value or valueFrom",
    ),
    "value from two objects": (
        env({"name": "A", "valueFrom": {"secretKeyRef": SECRET, "configMapKeyRef": SECRET}}),
        "spec.trainer.env[0].valueFrom.configMapKeyRef: Forbidden: valueFrom takes secretKeyRef or configMapKeyRef, not both: remove one",
    ),
    "value from no object": (
        env({"name": "A", "valueFrom": {}}),
        "spec.trainer.env[0].valueFrom.secretKeyRef: Required value: valueFrom needs secretKeyRef or configMapKeyRef",
    ),
    "variable twice": (
        env({"name": "A", "value": "1"}, {"name": "A", "value": "2"}),
        'spec.trainer.env[1]: Duplicate value: {"name":"A"}',
    ),
    "a million characters": (
        env({"name": "A", "value": "x" * 1_000_000}),
        "spec.trainer.env[0].value: Too long: may not be more than 32768 bytes",
    ),
    "four million characters": (
        env({"name": "A", "value": "x" * 4_000_000}),
        "Request entity too large: limit is 3145728",
    ),
    "unknown launcher": (
        job(launcher="Torchrun"),
        'spec.launcher: Unsupported value: "Torchrun": supported values: "MLEnv", "None"',
    ),
    "unknown kind of environment": (
        job(environmentRef={"kind": "Runtime", "name": "x"}),
        'spec.environmentRef.kind: Unsupported value: "Runtime": supported values: "ClusterTrainingEnvironment", "TrainingEnvironment"',
    ),
    "no image": (
        {**job(), "spec": {"trainer": {"command": ["train.py"]}}},
        "spec.trainer.image: Required value: an image is needed: set trainer.image, or name an environment in environmentRef",
    ),
    "no program": (
        {**job(), "spec": {"trainer": {"image": "example/image:1"}}},
        "spec.trainer.command: Required value: a program is needed: set trainer.command, as [train.py]; or launcher: None to run what the image starts by itself",
    ),
    "empty program": (
        job(trainer={"command": []}),
        "spec.trainer.command: Required value: a program is needed: set trainer.command, as [train.py]; or launcher: None to run what the image starts by itself",
    ),
    "no trainer": ({**job(), "spec": {}}, "spec.trainer: Required value"),
    "unknown field": (
        job(trainer={"imgae": "x"}),
        'strict decoding error: unknown field "spec.trainer.imgae"',
    ),
    "platform's labels": (
        job(podTemplateOverrides={"metadata": {"labels": {"mlenv.io/job-name": "other"}}}),
        "spec.podTemplateOverrides.metadata.labels: Forbidden: labels app.kubernetes.io/name, app.kubernetes.io/managed-by and all under mlenv.io/ belong to the platform: choose other keys",
    ),
}


@pytest.mark.parametrize("mistake", REJECTED)
def test_a_mistake_is_rejected_with_a_sentence(kubectl: Kubectl, mistake: str) -> None:
    manifest, sentence = REJECTED[mistake]
    error = kubectl.error("create", "-f", "-", stdin=manifest)
    assert sentence in error
    assert "hush" not in error  # values of variables may be secret
    assert len(error) < 2000


@pytest.mark.parametrize("kind", [names.ENVIRONMENT, names.CLUSTER_ENVIRONMENT])
def test_reserved_names_are_rejected_in_environments_too(kubectl: Kubectl, kind: str) -> None:
    spec = {"image": "example/image:1", "env": [{"name": "PET_NNODES", "value": "2"}]}
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": kind,
        "metadata": {"name": "bad"},
        "spec": spec,
    }
    error = kubectl.error("create", "-f", "-", stdin=manifest)
    assert f"spec.env[0].name: Forbidden: PET_NNODES is set by the platform itself; {RESERVED}" in error


@pytest.fixture
def live(kubectl: Kubectl, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a live job."""
    name = f"live-{abs(hash(request.node.name)) % 10**8}"
    kubectl.ok("create", "-f", "-", stdin=job(name, environmentRef={"name": "one"}))
    yield name
    kubectl.ok("delete", "trainingjob", name)


EDITS: dict[str, dict[str, Any]] = {
    "environmentRef": {"environmentRef": {"name": "two"}},
    "launcher": {"launcher": "None"},
    "trainer": {"trainer": {"numNodes": 2}},
    "podTemplateOverrides": {"podTemplateOverrides": {"spec": {"nodeSelector": {"pool": "a"}}}},
    "scheduling": {"scheduling": {"assemblyTimeoutSeconds": 60}},
}


def patch(name: str, spec: dict[str, Any]) -> tuple[str, ...]:
    import json

    return "patch", "trainingjob", name, "--type=merge", "-p", json.dumps({"spec": spec})


@pytest.mark.parametrize("field", EDITS)
def test_an_edit_needs_a_suspended_job(kubectl: Kubectl, live: str, field: str) -> None:
    error = kubectl.error(*patch(live, EDITS[field]))
    sentence = f"{field} can be edited only while the job is suspended: set spec.suspend to true first"
    assert f"spec.{field}: Forbidden: {sentence}" in error
    assert f"spec.{field}: Forbidden: {sentence}" in kubectl.error(
        *patch(live, {"suspend": True, **EDITS[field]})
    )
    kubectl.ok(*patch(live, {"suspend": True}))
    kubectl.ok(*patch(live, EDITS[field]))


def test_an_environment_can_be_dropped_only_while_suspended(kubectl: Kubectl, live: str) -> None:
    assert "spec.environmentRef: Forbidden" in kubectl.error(*patch(live, {"environmentRef": None}))
    kubectl.ok(*patch(live, {"suspend": True}))
    kubectl.ok(*patch(live, {"environmentRef": None, "suspend": False}))


def test_what_may_change_while_live(kubectl: Kubectl, live: str) -> None:
    for spec in (
        {"activeDeadlineSeconds": 600},
        {"ttlSecondsAfterFinished": 60},
        {"failurePolicy": {"maxRestarts": 9}},
        {"cost": {"limit": "500", "onExceeded": "Suspend"}},
        {"cost": {"limit": "700.50", "onExceeded": "Fail"}},
        {"cost": None},
        {"activeDeadlineSeconds": None, "suspend": True},
    ):
        kubectl.ok(*patch(live, spec))


def test_managed_by_never_changes(kubectl: Kubectl, live: str) -> None:
    sentence = "spec.managedBy: Forbidden: managedBy is immutable: delete the job and create it anew"
    assert sentence in kubectl.error(*patch(live, {"managedBy": "example.com/other"}))
    kubectl.ok(*patch(live, {"suspend": True}))
    assert sentence in kubectl.error(*patch(live, {"managedBy": "example.com/other"}))
