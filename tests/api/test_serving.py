"""What a real API server makes of our definitions: defaults, columns, selectors, explanations."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_api import names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server


@pytest.fixture
def job(kubectl: Kubectl) -> Iterator[dict[str, Any]]:
    """A small job as stored."""
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"name": "small"},
        "spec": {"environmentRef": {"name": "local"}, "trainer": {"command": ["train.py"], "numNodes": 2}},
    }
    kubectl.ok("create", "-f", "-", stdin=manifest)
    yield kubectl.json("get", "tj", "small")
    kubectl.ok("delete", "tj", "small")


def test_defaults_are_stored_and_nothing_else(job: dict[str, Any]) -> None:
    assert job["spec"] == {
        "checkpoint": {"resume": {"policy": "Auto"}},
        "environmentRef": {"kind": "ClusterTrainingEnvironment", "name": "local"},
        "failurePolicy": {"maxRestarts": 3},
        "launcher": "MLEnv",
        "managedBy": "mlenv.io/operator",
        "scheduling": {"assemblyTimeoutSeconds": 1800},
        "suspend": False,
        "trainer": {"command": ["train.py"], "numNodes": 2},
    }


def test_a_job_nobody_looked_at_says_so(job: dict[str, Any]) -> None:
    assert job["status"] == {"observedGeneration": -1}


def test_printer_columns(kubectl: Kubectl, job: dict[str, Any]) -> None:
    status = {
        "observedGeneration": 1,
        "phase": "Running",
        "attempt": {"number": 3, "state": "Running", "since": "2026-01-01T00:00:00Z"},
        "nodes": {"desired": 2, "ready": 2},
        "progress": {"step": 41000},
        "restarts": {"total": 2, "counted": 1},
        "checkpoint": {"sealed": {"step": 40500, "attempt": 2, "digest": "a" * 64}},
    }
    kubectl.ok(
        "patch",
        "tj",
        "small",
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    )
    head, row = (line.split() for line in kubectl.ok("get", "tj", "small").splitlines())
    assert head == ["NAME", "PHASE", "READY", "NODES", "ATTEMPT", "STEP", "AGE"]
    assert row[:6] == ["small", "Running", "2", "2", "3", "41000"]
    wide = kubectl.ok("get", "tj", "small", "-o", "wide").splitlines()
    assert wide[0].split()[6:9] == ["CHECKPOINT", "RESTARTS", "ENVIRONMENT"]
    assert wide[1].split()[6:9] == ["40500", "2", "local"]


def test_field_selectors(kubectl: Kubectl, job: dict[str, Any]) -> None:
    for selector, found in (
        ("spec.environmentRef.name=local", True),
        ("spec.environmentRef.name=other", False),
        ("status.phase=Running", False),
    ):
        names_found = kubectl.ok("get", "tj", "-o", "name", "--field-selector", selector).split()
        assert ("trainingjob.mlenv.io/small" in names_found) is found


def test_status_is_a_subresource(kubectl: Kubectl, job: dict[str, Any]) -> None:
    kubectl.ok("patch", "tj", "small", "--type=merge", "-p", '{"status": {"phase": "Failed"}}')
    assert kubectl.json("get", "tj", "small")["status"] == {"observedGeneration": -1}


def test_every_field_is_explained(kubectl: Kubectl) -> None:
    text = kubectl.ok("explain", "trainingjob.spec.trainer")
    assert "Pods in the gang." in text


def test_short_names_and_no_category(kubectl: Kubectl) -> None:
    rows = kubectl.ok("api-resources", "--api-group", names.GROUP, "--no-headers").splitlines()
    assert {(row.split()[1], row.split()[-1]) for row in rows} == {
        ("tj", names.TRAINING_JOB),
        ("tenv", names.ENVIRONMENT),
        ("ctenv", names.CLUSTER_ENVIRONMENT),
        ("pbook", names.PRICE_BOOK),
        ("bgt", names.BUDGET),
    }
    assert "small" not in kubectl.ok("get", "all", "-o", "name")


def test_conditions_merge_by_type(kubectl: Kubectl, job: dict[str, Any]) -> None:
    def condition(kind: str) -> dict[str, Any]:
        return {
            "type": kind,
            "status": "True",
            "reason": "Started",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }

    for manager, kind in (("one", "PodsReady"), ("two", "Complete")):
        kubectl.ok(
            "apply",
            "--server-side",
            "--subresource=status",
            f"--field-manager={manager}",
            "-f",
            "-",
            stdin={
                "apiVersion": names.API_VERSION,
                "kind": names.TRAINING_JOB,
                "metadata": {"name": "small"},
                "status": {"conditions": [condition(kind)]},
            },
        )
    stored = kubectl.json("get", "tj", "small")["status"]["conditions"]
    assert {entry["type"] for entry in stored} == {"PodsReady", "Complete"}
