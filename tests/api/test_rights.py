"""What the chart's roles let the operator's account do, and what not, asked of a real API server."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    import subprocess

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

DEADLINE_S = 300.0
CHART = Path(__file__).parents[1] / "golden" / "chart" / "defaults.golden.yaml"
OPERATOR = "system:serviceaccount:mlenv-system:mlenv-operator"
CLEANER = "system:serviceaccount:mlenv-system:mlenv-operator-uninstall"
ALLOWED = {
    OPERATOR: {
        "nodes": "get list watch",
        "jobs.batch": "create get",
        "pods": "create delete get list patch watch",
        "services": "create get list watch",
        "controllerrevisions.apps": "create delete get list watch",
        "tokenreviews.authentication.k8s.io": "create",
        "events.events.k8s.io": "create patch",
        "budgets.mlenv.io": "get list watch",
        "budgets.mlenv.io/status": "update",
        "clustertrainingenvironments.mlenv.io": "get list watch",
        "pricebooks.mlenv.io": "get list watch",
        "pricebooks.mlenv.io/status": "update",
        "trainingenvironments.mlenv.io": "get list watch",
        "trainingjobs.mlenv.io": "delete get list watch",
        "trainingjobs.mlenv.io/finalizers": "update",
        "trainingjobs.mlenv.io/status": "get patch update",
    },
    CLEANER: {
        "pods": "get list patch",
        "controllerrevisions.apps": "delete get list",
        "trainingjobs.mlenv.io": "get list",
    },
}
LEASES = "leases.coordination.k8s.io"
AT_HOME = {
    OPERATOR: {**ALLOWED[OPERATOR], LEASES: "create", f"{LEASES}=mlenv-operator": "get update"},
    CLEANER: {**ALLOWED[CLEANER], f"{LEASES}=mlenv-operator": "delete get"},
}
BASIC = {
    "clustertrustbundles",
    "selfsubjectaccessreviews",
    "selfsubjectreviews",
    "selfsubjectrulesreviews",
}
"""What Kubernetes itself lets every account read."""


@pytest.fixture(scope="module", autouse=True)
def roles(kubectl: Kubectl) -> None:
    kubectl.run("create", "namespace", "mlenv-system")
    for document in yaml.safe_load_all(CHART.read_text()):
        if document["kind"].endswith(("Role", "RoleBinding")):
            kubectl.ok("apply", "--server-side", "-f", "-", stdin=document)
    end = time.monotonic() + DEADLINE_S  # the API server goes by what its own watches have told it
    while lacking := [one for one, wanted in AT_HOME.items() if not _holds(kubectl, one, wanted)]:
        assert time.monotonic() < end, f"{lacking} may not yet do what the roles say"
        time.sleep(0.1)


def _holds(kubectl: Kubectl, account: str, wanted: dict[str, str]) -> bool:
    """Whether it has all of these rights at home, and maybe others."""
    held = rights(kubectl, account, "mlenv-system")
    return all(set(verbs.split()) <= set(held.get(what, "").split()) for what, verbs in wanted.items())


def rights(kubectl: Kubectl, account: str, namespace: str) -> dict[str, str]:
    """Verbs by resource, as the API server itself adds up all roles of an account in a namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = kubectl.ok(
        "create", "--validate=false", "-f", "-", "-o", "json", f"--as={account}", stdin=review
    )
    found: dict[str, set[str]] = {}
    for rule in json.loads(answer)["status"]["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in set(rule["resources"]) - BASIC:
                name, _, rest = resource.partition("/")
                key = "/".join(part for part in (f"{name}.{group}".rstrip("."), rest) if part)
                key += "".join(f"={one}" for one in rule.get("resourceNames", ()))
                found.setdefault(key, set()).update(rule["verbs"])
    return {key: " ".join(sorted(verbs)) for key, verbs in found.items()}


@pytest.mark.parametrize("account", ALLOWED)
def test_exactly_what_is_needed_and_nothing_else(kubectl: Kubectl, account: str) -> None:
    assert rights(kubectl, account, "default") == ALLOWED[account]


def test_at_home_there_is_one_lease_more(kubectl: Kubectl) -> None:
    for account, wanted in AT_HOME.items():
        assert rights(kubectl, account, "mlenv-system") == wanted


def refused(kubectl: Kubectl, account: str, *words: str) -> subprocess.CompletedProcess[str]:
    done = kubectl.run(*words, f"--as={account}")
    assert done.returncode != 0, done.stdout
    assert "Forbidden" in done.stderr, done.stderr
    return done


def test_a_secret_cannot_be_read(kubectl: Kubectl) -> None:
    done = refused(kubectl, OPERATOR, "get", "secret", "any", "-n", "default")
    assert f'User "{OPERATOR}" cannot get resource "secrets"' in done.stderr


def test_the_lease_is_the_only_one(kubectl: Kubectl) -> None:
    refused(kubectl, OPERATOR, "get", "lease", "other", "-n", "mlenv-system")
    refused(kubectl, OPERATOR, "get", "lease", "mlenv-operator", "-n", "default")
    done = kubectl.run("get", "lease", "mlenv-operator", "-n", "mlenv-system", f"--as={OPERATOR}")
    assert "NotFound" in done.stderr  # allowed, and not there


def test_users_get_rights_through_the_roles_that_every_cluster_has(kubectl: Kubectl) -> None:
    roles = [
        document
        for document in yaml.safe_load_all(CHART.read_text())
        if document["kind"] == "ClusterRole" and "aggregate" in str(document["metadata"]["labels"])
    ]
    verbs = {
        role["metadata"]["name"]: {verb for rule in role["rules"] for verb in rule["verbs"]} for role in roles
    }
    assert verbs == {
        "mlenv-edit": {"create", "delete", "deletecollection", "patch", "update"},
        "mlenv-view": {"get", "list", "watch"},
    }
