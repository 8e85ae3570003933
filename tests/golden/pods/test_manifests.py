"""Manifests, whole, as reviewed files. To write them anew: MLENV_UPDATE_GOLDEN=1 pytest tests/golden/pods."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_cluster import START

from mlenv_api.checkpoints import CheckpointRef
from mlenv_operator.core.actions import CreatePod, CreateRevision, CreateService
from mlenv_operator.core.plan import plan
from mlenv_operator.core.project import parse_environment, parse_job, parse_revision
from mlenv_operator.core.render.drain import render_drain
from mlenv_operator.core.render.effective import effective
from mlenv_operator.core.world import World

HERE = Path(__file__).parent
Raw = dict[str, Any]

PLAIN: Raw = {"trainer": {"image": "registry/train:1", "command": ["train.py"], "args": ["--epochs", "3"]}}
ANY_IMAGE: Raw = {
    "launcher": "None",
    "trainer": {
        "image": "registry/any:1",
        "command": ["torchrun", "train.py"],
        "numNodes": 2,
        "resourcesPerNode": {"limits": {"nvidia.com/gpu": 4, "memory": "64Gi"}},
    },
}
ENVIRONMENT: Raw = {
    "kind": "ClusterTrainingEnvironment",
    "metadata": {"name": "torch", "uid": "5e1f", "generation": 7},
    "spec": {
        "image": "registry/torch:2.9",
        "imagePullPolicy": "IfNotPresent",
        "launcherCommand": ["/opt/venv/bin/python", "-m", "mlenv.launch", "--"],
        "env": [{"name": "WANDB_MODE", "value": "offline"}, {"name": "LEVEL", "value": "environment"}],
        "podTemplate": {
            "metadata": {"labels": {"team": "platform", "tier": "gpu"}},
            "spec": {
                "nodeSelector": {"pool": "train"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
                "volumes": [{"name": "data", "hostPath": {"path": "/srv/data"}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
                "imagePullSecrets": [{"name": "registry"}],
                "runtimeClassName": "nvidia",
            },
        },
        "defaults": {
            "resourcesPerNode": {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi"}},
            "numProcPerNode": 2,
        },
    },
}
IN_ENVIRONMENT: Raw = {
    "environmentRef": {"name": "torch"},
    "trainer": {
        "command": ["-m", "recsys.train"],
        "numNodes": 2,
        "env": [
            {"name": "LEVEL", "value": "job"},
            {"name": "HOME", "value": "/data/home"},
            {"name": "WANDB_API_KEY", "valueFrom": {"secretKeyRef": {"name": "wandb", "key": "key"}}},
        ],
    },
    "podTemplateOverrides": {
        "metadata": {"labels": {"tier": "spot"}, "annotations": {"note": "from the job"}},
        "spec": {
            "nodeSelector": {"zone": "a"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "volumeMounts": [{"name": "scratch", "mountPath": "/tmp"}],
            "securityContext": {"runAsUser": 1000, "fsGroup": 1000},
            "priorityClassName": "high",
            "terminationGracePeriodSeconds": 120,
        },
    },
}
SPOOL: Raw = {
    "trainer": {"image": "registry/train:1", "command": ["train.py"]},
    "checkpoint": {
        "intervalSteps": 500,
        "sanity": {"armed": ["metric_floor", "loss_spike"], "floors": {"auc": "0.6"}, "lossZ": "12.5"},
        "spool": {"volumeClaimName": "ranker-spool"},
        "resume": {"policy": "From", "from": "/var/spool/mlenv/77aa/step-000000005000.a3", "things": ["net"]},
    },
}
ANY_IMAGE_SPOOL: Raw = {**ANY_IMAGE, "checkpoint": {"spool": {"volumeClaimName": "ranker-spool"}}}

WANDB: Raw = {"entity": "ads", "project": "ranker", "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}
TRACKED: Raw = {
    **PLAIN,
    "tracking": {"wandb": {**WANDB, "baseURL": "https://wandb.example", "exposeKeyToTrainer": True}},
}
TRACKED_SPOOL: Raw = {
    "environmentRef": {"name": "torch"},
    "trainer": {"command": ["train.py"]},
    "checkpoint": {"spool": {"volumeClaimName": "ranker-spool"}},
}
TRACKED_ENVIRONMENT: Raw = {
    "kind": "ClusterTrainingEnvironment",
    "metadata": {"name": "torch", "uid": "5e1f", "generation": 7},
    "spec": {
        "image": "registry/torch:2.9",
        "env": [
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
            {"name": "SSL_CERT_FILE", "value": "/etc/ca/bundle.pem"},
            {"name": "LEVEL", "value": "environment"},
        ],
        "podTemplate": {
            "spec": {
                "volumes": [{"name": "ca", "configMap": {"name": "ca"}}],
                "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca"}],
            }
        },
        "tracking": {"wandb": WANDB},
    },
}


def manifests(spec: Raw, environment: Raw | None) -> list[Raw]:
    """Everything that is made for a new job, in order."""
    raw = {
        "metadata": {
            "name": "ranker",
            "namespace": "team",
            "uid": "1b2c",
            "generation": 1,
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": spec,
    }
    view = parse_environment(environment) if environment else None
    first = plan(World(now=START, job=parse_job(raw), environment=view))
    assert first.status is not None
    revisions = {}
    for step in first.actions:
        assert isinstance(step, CreateRevision)
        kept = parse_revision(step.manifest)
        assert kept is not None
        revisions[step.manifest["metadata"]["name"]] = kept
    stored = parse_job({**raw, "status": first.status.wire()})
    world = World(
        now=START,
        job=stored,
        environment=view,
        revisions=revisions,
        operator_urls=("http://10.96.0.9:8080", "http://mlenv-operator.mlenv-system.svc:8080"),
    )
    steps = (*first.actions, *plan(world).actions)
    return [step.manifest for step in steps if isinstance(step, CreateRevision | CreateService | CreatePod)]


@pytest.mark.parametrize(
    ("name", "spec", "environment"),
    [
        ("plain", PLAIN, None),
        ("any-image", ANY_IMAGE, None),
        ("environment", IN_ENVIRONMENT, ENVIRONMENT),
        ("spool", SPOOL, None),
        ("any-image-spool", ANY_IMAGE_SPOOL, None),
        ("tracked", TRACKED, None),
        ("tracked-spool", TRACKED_SPOOL, TRACKED_ENVIRONMENT),
    ],
)
def test_manifests_are_as_reviewed(name: str, spec: Raw, environment: Raw | None) -> None:
    _compare(name, manifests(spec, environment))


def test_one_pod_alone_has_no_service_and_is_its_own_master() -> None:
    (pod,) = manifests({**ANY_IMAGE, "trainer": {**ANY_IMAGE["trainer"], "numNodes": 1}}, None)
    values = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert (values["MASTER_ADDR"], values["PET_MASTER_ADDR"]) == ("127.0.0.1", "127.0.0.1")


def test_the_job_that_carries_a_last_checkpoint_is_as_reviewed() -> None:
    about = {"name": "ranker", "namespace": "team", "uid": "1b2c"}
    view, environment = parse_job({"metadata": about, "spec": TRACKED_SPOOL}), TRACKED_ENVIRONMENT
    assert view.spec is not None
    what = effective(view.spec, parse_environment(environment).spec)
    assert what.wandb is not None
    last = CheckpointRef(step=1200, attempt=3, digest="ab" * 32)
    _compare("drain", [render_drain(view, what, what.wandb, last)])


def _compare(name: str, documents: list[Raw]) -> None:
    made = yaml.safe_dump_all(json.loads(json.dumps(documents)), sort_keys=False, width=110)
    golden = HERE / f"{name}.yaml"
    if os.environ.get("MLENV_UPDATE_GOLDEN"):
        golden.write_text(made)
    assert made == golden.read_text()
