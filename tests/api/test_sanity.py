"""Jobs that arm checks of their checkpoints, asked of a real API server."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

SANITY = {
    "armed": ["metric_floor", "loss_spike"],
    "floors": {"auc": "0.6", "recall@10": "-0.5"},
    "lossZ": "12.5",
    "calibration": {"most": "1.5"},
}


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"sanity-{secrets.token_hex(4)}"
    kubectl.ok("create", "namespace", name)
    yield name
    kubectl.ok("delete", "namespace", name, "--wait=false")


def job(namespace: str, **sanity: Any) -> dict[str, Any]:
    trainer = {"image": "x:1", "command": ["train.py"]}
    return {
        "apiVersion": "mlenv.io/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "ranker", "namespace": namespace},
        "spec": {"trainer": trainer, "checkpoint": {"sanity": {**SANITY, **sanity}}},
    }


def test_checks_are_kept_as_they_were_written(kubectl: Kubectl, namespace: str) -> None:
    made = json.loads(kubectl.ok("create", "-f", "-", "-o", "json", stdin=job(namespace)))
    wanted = {**SANITY, "calibration": {"least": "0.8", "most": "1.5"}}
    assert made["spec"]["checkpoint"]["sanity"] == wanted
    edit = json.dumps({"spec": {"checkpoint": {"sanity": {"armed": []}}}})
    said = kubectl.error("patch", "trainingjob", "ranker", "-n", namespace, "--type=merge", "-p", edit)
    assert "checkpoint can be edited only while the job is suspended" in said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"armed": ["loss"]}, "Unsupported value"),
        ({"armed": ["probe", "probe"]}, "Duplicate value"),
        ({"floors": {"auc": 0.6}}, "floors"),
        ({"floors": {"auc": "much"}}, "floors"),
        ({"lossZ": "-1"}, "lossZ"),
        ({"labelRateRatio": "0.5"}, "labelRateRatio"),
    ],
)
def test_nonsense_is_refused(kubectl: Kubectl, namespace: str, wrong: dict[str, Any], words: str) -> None:
    assert words in kubectl.error("create", "-f", "-", stdin=job(namespace, **wrong))
