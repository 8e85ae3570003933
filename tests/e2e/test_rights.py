"""What the operator's account may not do, asked with its own token and nothing else."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import yaml

from mlenv_api import names
from mlenv_local import LocalError, platform

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlenv_local import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

ACCOUNT = "mlenv-operator"
JOBS = f"/apis/{names.API_VERSION}/namespaces/default/{names.TRAINING_JOBS}"
LEASES = "/apis/coordination.k8s.io/v1/namespaces"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
FORBIDDEN = {
    "read all Secrets": ("GET", "/api/v1/secrets"),
    "read the Secrets of its own namespace": ("GET", f"/api/v1/namespaces/{platform.NAMESPACE}/secrets"),
    "read ConfigMaps": ("GET", "/api/v1/configmaps"),
    "run commands in pods": ("POST", "/api/v1/namespaces/default/pods/any/exec?command=id"),
    "read pods' logs": ("GET", "/api/v1/namespaces/default/pods/any/log"),
    "evict pods": ("POST", "/api/v1/namespaces/default/pods/any/eviction"),
    "delete all pods at once": ("DELETE", "/api/v1/namespaces/default/pods"),
    "read Deployments": ("GET", "/apis/apps/v1/deployments"),
    "delete Services": ("DELETE", "/api/v1/namespaces/default/services/any"),
    "read Leases of another namespace": ("GET", f"{LEASES}/kube-system/leases"),
    "take the scheduler's Lease": ("PUT", f"{LEASES}/kube-system/leases/kube-scheduler"),
    "read another Lease of its own": ("GET", f"{LEASES}/{platform.NAMESPACE}/leases/other"),
    "create a job": ("POST", JOBS),
    "edit a job": ("PATCH", f"{JOBS}/any"),
    "edit environments": ("POST", f"/apis/{names.API_VERSION}/{names.CLUSTER_ENVIRONMENTS}"),
    "change nodes": ("PATCH", "/api/v1/nodes/node-1"),
    "make namespaces": ("POST", "/api/v1/namespaces"),
    "give itself rights": ("POST", f"{ROLES}/clusterrolebindings"),
    "change its own role": ("PATCH", f"{ROLES}/clusterroles/mlenv-operator"),
    "get tokens of other accounts": ("POST", "/api/v1/namespaces/default/serviceaccounts/default/token"),
}


@pytest.fixture(scope="module")
def ask(installed: Cluster) -> Callable[..., tuple[int, str]]:
    """A request by the operator's account; the code, and what the API server said."""
    token = installed.kubectl("create", "token", ACCOUNT, "-n", platform.NAMESPACE).strip()
    config = yaml.safe_load(installed.kubeconfig.read_text())["clusters"][0]["cluster"]
    url = urlsplit(config["server"])
    authority = base64.b64decode(config["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)

    def made(method: str, path: str, **headers: str) -> tuple[int, str]:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        connection = http.client.HTTPSConnection(str(url.hostname), url.port, timeout=30, context=tls)
        body = None if method == "GET" else "{}"
        known = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        try:
            connection.request(method, path, body, {**known, **headers})
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()

    return made


def test_it_may_do_its_work(ask: Callable[..., tuple[int, str]]) -> None:
    """So that the refusals below are refusals of this account."""
    for path in ("/api/v1/pods", f"/apis/{names.API_VERSION}/{names.TRAINING_JOBS}", "/api/v1/nodes"):
        status, said = ask("GET", f"{path}?limit=1")
        assert status == 200, said


@pytest.mark.parametrize("deed", FORBIDDEN)
def test_it_may_not(ask: Callable[..., tuple[int, str]], deed: str) -> None:
    method, path = FORBIDDEN[deed]
    status, said = ask(method, path)
    assert status == 403, f"{deed}: {status} {said}"
    assert json.loads(said)["message"].count(f"system:serviceaccount:{platform.NAMESPACE}:{ACCOUNT}")


def test_it_may_not_speak_for_others(ask: Callable[..., tuple[int, str]]) -> None:
    status, said = ask("GET", "/api/v1/pods?limit=1", **{"Impersonate-User": "system:admin"})
    assert status == 403, said


@pytest.mark.parametrize("verb", ["*", "escalate", "bind", "impersonate"])
def test_it_has_no_verb_that_stands_for_all(installed: Cluster, verb: str) -> None:
    who = f"--as=system:serviceaccount:{platform.NAMESPACE}:{ACCOUNT}"
    with pytest.raises(LocalError, match="no"):
        installed.kubectl("auth", "can-i", verb, "*.*", who)
