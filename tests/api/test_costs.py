"""Costs told to real users: tokens and rights are those of a real API server, and its proxy is the way."""

from __future__ import annotations

import asyncio
import copy
import io
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ledgers import START, filled

from mlenv_api import names
from mlenv_operator.adapters.caches import build_caches
from mlenv_operator.adapters.costserver import serve_costs
from mlenv_operator.adapters.estimates import Estimates
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.pricefiles import shipped_rows
from mlenv_operator.cost.facts import DOLLAR, HOUR
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.kube.client import Client, never_gated
from mlenv_operator.kube.transport import connect
from mlenv_operator.runtime.clock import SystemClock
from mlenv_operator.settings import Settings
from mlenv_sdk import Client as Sdk
from mlenv_sdk import Forbidden, NotFound, Unavailable, cli, cost_cli

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server

HOME = "mlenv-system"
CHART = Path(__file__).parents[1] / "golden" / "chart" / "ledger-sqlite.golden.yaml"
MLENV = Path(sys.executable).parent / "mlenv"
NOW = START + 70 * HOUR
MONTH = {"month": "2025-01"}


def account(namespace: str, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"namespace": namespace, "name": name},
    }


def bound(role: str, whom: str, namespace: str | None, kind: str = "ClusterRole") -> dict[str, Any]:
    """A binding of a role to the account `namespace/name`; without a namespace it holds everywhere."""
    home, name = whom.split("/")
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": f"{role}-{home}-{name}"} | ({"namespace": namespace} if namespace else {}),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "namespace": home, "name": name}],
    }


def users() -> list[dict[str, Any]]:
    """Team ads sees its own; team feed sees both; the chief everything. Ann is a person of team ads."""
    speaks = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"namespace": "ns-ads", "name": "asks-for-costs"},
        "rules": [
            {
                "apiGroups": [""],
                "resources": ["serviceaccounts/token"],
                "resourceNames": [names.COST_ACCOUNT],
                "verbs": ["create"],
            }
        ],
    }
    submits = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"namespace": "ns-ads", "name": "submits-jobs"},
        "rules": [{"apiGroups": ["mlenv.io"], "resources": [names.TRAINING_JOBS], "verbs": ["create"]}],
    }
    return [
        account("ns-ads", names.COST_ACCOUNT),
        account("ns-feed", names.COST_ACCOUNT),
        account("ns-ads", "ann"),
        account(HOME, "chief"),
        bound("mlenv-costs", f"ns-ads/{names.COST_ACCOUNT}", "ns-ads"),
        bound("mlenv-costs", f"ns-feed/{names.COST_ACCOUNT}", "ns-ads"),
        bound("mlenv-costs", f"ns-feed/{names.COST_ACCOUNT}", "ns-feed"),
        bound("mlenv-costs", f"{HOME}/chief", None),
        speaks,
        bound("asks-for-costs", "ns-ads/ann", "ns-ads", "Role"),
        submits,
        bound("submits-jobs", "ns-ads/ann", "ns-ads", "Role"),
    ]


@pytest.fixture(scope="module")
def roles(kubectl: Kubectl) -> Iterator[None]:
    """The chart's own roles, and users; other tests count the rights of all, so they go again."""
    for namespace in (HOME, "ns-ads", "ns-feed"):
        kubectl.run("create", "namespace", namespace)
    chart = [
        one for one in yaml.safe_load_all(CHART.read_text()) if one["kind"].endswith(("Role", "Binding"))
    ]
    documents = [*chart, *users()]
    for document in documents:
        kubectl.ok("apply", "--server-side", "-f", "-", stdin=document)
    yield
    for document in documents:
        if document["metadata"]["name"] != "mlenv-operator":
            kubectl.ok("delete", "--ignore-not-found", "-f", "-", stdin=document)


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> str:
    return filled(tmp_path_factory.mktemp("ledger"), NOW)


@asynccontextmanager
async def telling(kubeconfig: Path, dsn: str) -> AsyncIterator[int]:
    settings = Settings(namespace=HOME, pod_name="operator-0", ledger_dsn=dsn, cost_port=0)
    async with connect(
        kubeconfig=str(kubeconfig), user_agent="test", timeout_s=30, connections=8
    ) as transport:
        client = Client(transport, never_gated)
        clock = SystemClock()
        unseen = build_caches(
            client, clock, random.Random(1), Metrics()
        )  # no informer runs: no node is known
        estimates = Estimates(unseen, lambda: PriceBook(shipped_rows()))
        async with serve_costs(settings, client, lambda: None, clock, estimates=estimates) as port:
            yield port


@pytest.fixture(scope="module")
def port(kubectl: Kubectl, roles: None, dsn: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where costs are told, with the rights of the operator's own account."""
    kubeconfig = login(
        kubectl, HOME, "mlenv-operator", tmp_path_factory.mktemp("operator") / "config", "default"
    )
    started: list[int] = []
    ready, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve() -> None:
        async with telling(kubeconfig, dsn) as number:
            started.append(number)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(300)
        yield started[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


def login(kubectl: Kubectl, namespace: str, name: str, path: Path, default: str) -> Path:
    """A kubeconfig of an account."""
    kubectl.ok("apply", "--server-side", "-f", "-", stdin=account(namespace, name))
    config = json.loads(kubectl.kubeconfig.read_text())
    token = kubectl.ok("create", "token", name, "-n", namespace, "--duration=2h").strip()
    config["users"] = [{"name": "u", "user": {"token": token}}]
    config["contexts"][0]["context"]["namespace"] = default
    path.write_text(json.dumps(config))
    return path


@pytest.fixture(scope="module")
def proxied(kubectl: Kubectl, port: int) -> Iterator[None]:
    """The chart's Service, as the API server's proxy finds it, leading to this process."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": HOME, "name": "mlenv-operator-costs"},
        "spec": {"ports": [{"name": "http", "port": 8081, "targetPort": port}]},
    }
    where, address = {"namespace": HOME, "name": "mlenv-operator-costs"}, _address()
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": HOME, "name": "operator-0"},
        "spec": {
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "operator",
                    "image": "none",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    pieces = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**where, "labels": {"kubernetes.io/service-name": where["name"]}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "namespace": HOME, "name": "operator-0"},
            }
        ],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }
    for one in (service, pod, pieces):
        kubectl.ok("apply", "--server-side", "-f", "-", stdin=one)
    # The proxy leads to addresses of pods alone.
    status = json.dumps({"status": {"podIP": address, "podIPs": [{"ip": address}]}})
    kubectl.ok("patch", "pod", "operator-0", "-n", HOME, "--subresource=status", "--type=merge", "-p", status)
    _wait_for_the_proxy(kubectl)
    yield
    for kind, name in (("service", where["name"]), ("endpointslice", where["name"]), ("pod", "operator-0")):
        kubectl.ok("delete", kind, name, "-n", HOME, "--force", "--ignore-not-found")


def _wait_for_the_proxy(kubectl: Kubectl) -> None:
    """Until the API server has heard of the endpoint: then what is refused is the missing token."""
    path = f"/api/v1/namespaces/{HOME}/services/mlenv-operator-costs:http/proxy/v1/costs"
    deadline = time.monotonic() + 300
    while "no endpoints" in (said := kubectl.error("get", "--raw", path)):
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def _address() -> str:
    """An address of this machine that is no loopback: an endpoint cannot be one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])


def token_of(kubectl: Kubectl, who: str, *audience: str) -> str:
    namespace, name = who.split("/")
    return kubectl.ok("create", "token", name, "-n", namespace, *audience).strip()


def get(port: int, path: str, token: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize(
    ("who", "sees"),
    [
        ("ns-ads/mlenv-costs", ["ns-ads"]),
        ("ns-feed/mlenv-costs", ["ns-ads", "ns-feed"]),
        (f"{HOME}/chief", None),
    ],
)
def test_a_token_opens_what_its_account_may_see(
    kubectl: Kubectl, port: int, who: str, sees: list[str] | None
) -> None:
    token = token_of(kubectl, who, f"--audience={names.COST_AUDIENCE}")
    status, told = get(port, "/v1/costs?month=2025-01", token)
    assert (status, told.get("namespaces")) == (200, sees), told
    found = {one["key"]["namespace"] for one in told["groups"]}
    assert found == set(sees) if sees else {"", "ns-search"} < found


def test_other_tokens_open_nothing(kubectl: Kubectl, port: int) -> None:
    audience = f"--audience={names.COST_AUDIENCE}"
    for token in (token_of(kubectl, f"{HOME}/chief"), token_of(kubectl, f"{HOME}/chief", audience)[:-9], "x"):
        assert get(port, "/v1/costs", token)[0] == 401
    status, told = get(port, "/v1/costs?month=2025-01", token_of(kubectl, "ns-ads/ann", audience))
    assert (status, "system:serviceaccount:ns-ads:ann may not see" in told["message"]) == (403, True)
    token = token_of(kubectl, "ns-ads/mlenv-costs", audience)
    assert get(port, "/v1/costs?namespace=ns-feed", token)[0] == 403
    assert get(port, "/v1/costs/jobs/ns-feed/j1", token)[0] == 403


@pytest.fixture
def ann(kubectl: Kubectl, roles: None, tmp_path: Path) -> Path:
    return login(kubectl, "ns-ads", "ann", tmp_path / "ann", "ns-ads")


def test_a_person_asks_through_the_api_server_with_little_rights(ann: Path, proxied: None) -> None:
    with Sdk(ann) as client:
        found = client.costs.group(["job", "category"], **MONTH)
        assert found.namespaces == ("ns-ads",)
        assert sum(one.cost for _, one in found.groups) + found.rest.cost == found.total.cost > 0
        job = found.groups[0][0][0]
        bill, charges = client.costs.job(job), list(client.costs.explain(job))
        assert (
            sum(one.amounts.cost for one in charges) == bill.cost == sum(a.cost for _, a in bill.categories)
        )
        with pytest.raises(Forbidden, match="may not see the costs of ns-feed"):
            client.costs.group(where={"namespace": "ns-feed"}, **MONTH)
        with pytest.raises(NotFound, match='The ledger knows no job "none"'):
            client.costs.job("none")


def test_an_estimate_comes_the_same_way(ann: Path, proxied: None) -> None:
    """The question is JSON in an address, which the API server's proxy passes on."""
    words = [{"name": f"N{number}", "value": "50 % + a & b = ü / 1?#"} for number in range(200)]
    job: dict[str, Any] = {
        "metadata": {"name": "ranker"},
        "spec": {
            "trainer": {"numNodes": 2, "env": words, "resourcesPerNode": {"limits": {"nvidia.com/gpu": 4}}},
            "podTemplateOverrides": {
                "spec": {
                    "nodeSelector": {
                        "node.kubernetes.io/instance-type": "p5.48xlarge",
                        "note": "50 % + a & b = ü / 1?#",
                    }
                }
            },
        },
    }
    with Sdk(ann) as client:
        found = client.costs.estimate(job, 3600)
        assert found.rate == found.durations[0].cost == 55_040_000_000 == 55 * DOLLAR + DOLLAR // 25
        assert "prices know nothing of note" in found.notes[0]
        job["metadata"]["namespace"] = "ns-feed"
        with pytest.raises(Forbidden, match="may not see the costs of ns-feed"):
            client.costs.estimate(job)


def test_whoever_submits_a_job_is_told_what_it_will_cost(
    kubectl: Kubectl,
    ann: Path,
    proxied: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpus = {"limits": {"nvidia.com/gpu": "4"}}
    trainer = {"image": "x:1", "command": ["true"], "numNodes": 2, "resourcesPerNode": gpus}
    here = {"nodeSelector": {"node.kubernetes.io/instance-type": "p5.48xlarge"}}
    spec = {"trainer": trainer, "podTemplateOverrides": {"spec": here}, "activeDeadlineSeconds": 7200}
    job = {"apiVersion": names.API_VERSION, "kind": names.TRAINING_JOB, "spec": spec}
    monkeypatch.setattr(cost_cli, "PATIENCE", 300.0)  # of a machine that may be busy

    def submit(name: str, *options: str) -> list[str]:
        text = json.dumps({**job, "metadata": {"name": name}})
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr("sys.argv", ["mlenv", "--kubeconfig", str(ann), "submit", "-", *options])
        monkeypatch.setattr(cli, "app", copy.deepcopy(cli.app))
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        assert (end.value.code or 0, said.err) == (0, "")
        kubectl.ok("delete", "trainingjob", name, "-n", "ns-ads")
        return said.out.splitlines()[1:-1]

    machine = "p5.48xlarge, of which the cluster has none now"
    assert submit("told") == [
        f"It will cost about $55.04 an hour on {machine}; at most $110.08 by its deadline, 2 h."
    ]
    assert submit("untold", "--no-estimate") == []
    # Where nobody tells, or she may not ask, the job is submitted all the same.
    monkeypatch.setenv("MLENV_COST_SERVICE", "default/elsewhere")
    assert submit("nowhere") == []
    monkeypatch.setenv("MLENV_COST_ACCOUNT", "ns-feed/mlenv-costs")
    assert submit("forbidden") == []


def test_the_command_asks_as_well(ann: Path, proxied: None) -> None:
    def mlenv(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MLENV, "--kubeconfig", str(ann), "cost", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            env=os.environ | {"COLUMNS": "240"},
        )

    table = mlenv("--month", "2025-01", "--by", "category")
    assert table.returncode == 0, table.stderr
    lines = [line.split() for line in table.stdout.splitlines() if "$" in line]
    cents = [int(line[-1].replace("$", "").replace(",", "").replace(".", "")) for line in lines]
    assert (lines[-1][0], sum(cents[:-1])) == ("TOTAL", cents[-1])
    told = json.loads(mlenv("--month", "2025-01", "--by", "job", "-o", "json").stdout)
    explained = mlenv("explain", told["groups"][0]["key"]["job"])
    assert "closed" in explained.stdout, explained.stderr
    refused = mlenv("--by", "colour")
    assert (refused.returncode, "there is no 'colour'" in refused.stderr) == (2, True)


def test_what_is_missing_is_said(
    kubectl: Kubectl, ann: Path, proxied: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLENV_COST_ACCOUNT", "ns-feed/mlenv-costs")
    with Sdk(ann) as client, pytest.raises(Forbidden, match="You may not ask in the name of"):
        client.costs.group()
    monkeypatch.setenv("MLENV_COST_ACCOUNT", "nobody")
    with Sdk(kubectl.kubeconfig) as client, pytest.raises(NotFound, match="platform team makes it once"):
        client.costs.group()
    monkeypatch.setenv("MLENV_COST_ACCOUNT", f"{HOME}/chief")
    monkeypatch.setenv("MLENV_COST_SERVICE", "default/elsewhere")
    with Sdk(kubectl.kubeconfig) as client, pytest.raises(Unavailable, match=r"ledger\.type set"):
        client.costs.group()
    monkeypatch.delenv("MLENV_COST_SERVICE")
    with Sdk(ann) as client:
        token = token_of(kubectl, "ns-ads/mlenv-costs", f"--audience={names.COST_AUDIENCE}")
        monkeypatch.setenv("MLENV_COST_TOKEN", token)
        assert client.costs.group(**MONTH).namespaces == ("ns-ads",)
