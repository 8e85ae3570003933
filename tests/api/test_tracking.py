"""Jobs that say where their checkpoints are carried, and their pods, asked of a real API server."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

GOLDEN = Path(__file__).parents[1] / "golden/pods"
WANDB = {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"track-{secrets.token_hex(4)}"
    kubectl.ok("create", "namespace", name)
    kubectl.ok("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl.ok("delete", "namespace", name, "--wait=false")


def job(namespace: str, **wandb: Any) -> dict[str, Any]:
    tracking = {"wandb": {key: value for key, value in {**WANDB, **wandb}.items() if value is not None}}
    return {
        "apiVersion": "mlenv.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "ranker", "namespace": namespace},
        "spec": {"trainer": {"image": "x:1", "command": ["train.py"]}, "tracking": tracking},
    }


def test_a_job_is_taken_with_its_defaults(kubectl: Kubectl, namespace: str) -> None:
    made = json.loads(kubectl.ok("create", "-f", "-", "-o", "json", stdin=job(namespace)))
    assert made["spec"]["tracking"]["wandb"] == {**WANDB, "exposeKeyToTrainer": False}
    edit = json.dumps({"spec": {"tracking": {"wandb": {"project": "other"}}}})
    said = kubectl.error("patch", "trainingjob", "ranker", "-n", namespace, "--type=merge", "-p", edit)
    assert "tracking can be edited only while the job is suspended" in said


@pytest.mark.parametrize(
    ("wandb", "words"),
    [
        ({"apiKeySecretRef": None}, "apiKeySecretRef"),
        ({"entity": "a/b"}, "entity"),
        ({"baseURL": "wandb.example"}, "baseURL"),
    ],
)
def test_nonsense_is_refused(kubectl: Kubectl, namespace: str, wandb: dict[str, Any], words: str) -> None:
    assert words in kubectl.error("create", "-f", "-", stdin=job(namespace, **wandb))


@pytest.mark.parametrize("golden", ["tracked", "tracked-spool"])
def test_its_pods_pass_at_the_restricted_level(kubectl: Kubectl, namespace: str, golden: str) -> None:
    documents = yaml.safe_load_all((GOLDEN / f"{golden}.yaml").read_text())
    pod = next(one for one in documents if one["kind"] == "Pod")
    pod["metadata"] = {"name": pod["metadata"]["name"], "namespace": namespace}
    pod["spec"]["serviceAccountName"] = "default"  # this server has nobody who fills it in
    made = json.loads(kubectl.ok("create", "-f", "-", "-o", "json", stdin=pod))
    (sidecar,) = made["spec"]["initContainers"]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("courier", "Always")
    keys = [one for one in made["spec"]["containers"][0]["volumeMounts"] if "wandb" in one["name"]]
    assert keys == [], "the key is the courier's alone"


def test_the_job_that_carries_a_last_checkpoint_passes_at_the_restricted_level(
    kubectl: Kubectl, namespace: str
) -> None:
    made = yaml.safe_load((GOLDEN / "drain.yaml").read_text())
    made["metadata"] |= {"namespace": namespace, "ownerReferences": []}
    kubectl.ok("create", "-f", "-", stdin=made)
    spec = {**made["spec"]["template"]["spec"], "serviceAccountName": "default"}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "drain", "namespace": namespace}}
    kubectl.ok("create", "-f", "-", stdin={**pod, "spec": spec})
