"""The chart, rendered by the real helm."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from mlenv_api import crd, names

if TYPE_CHECKING:
    from collections.abc import Callable

# helm comes with the programs of the local cluster; the first test may build them
pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]

HERE = Path(__file__).parent
CHART = HERE.parents[2] / "helm" / "mlenv"
VALUES = sorted(path.stem for path in (HERE / "values").glob("*.yaml"))
KNOWN = ("--api-versions", "mlenv.io/v1alpha1/ClusterTrainingEnvironment")


@pytest.fixture(scope="session")
def helm(tools: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tools / "helm", *args], capture_output=True, text=True, check=False, timeout=60
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., list[dict[str, Any]]]:
    def run(*args: str) -> list[dict[str, Any]]:
        done = helm("template", "mlenv", str(CHART), "--namespace", "mlenv-system", *args)
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run


def without_crds(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] != "CustomResourceDefinition"]


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [document for document in documents if document["kind"] == kind]


def pods(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [document["spec"] for document in of_kind(documents, "Pod")]
    for kind in ("Deployment", "Job"):
        found += [document["spec"]["template"]["spec"] for document in of_kind(documents, kind)]
    return found


@pytest.mark.parametrize("name", VALUES)
def test_manifests_are_as_recorded(render: Callable[..., list[dict[str, Any]]], name: str) -> None:
    extra = KNOWN if name.startswith("upgrade") else ()
    text = yaml.safe_dump_all(
        without_crds(render("--values", str(HERE / "values" / f"{name}.yaml"), *extra)),
        sort_keys=False,
        width=120,
    )
    path = HERE / f"{name}.golden.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), "read the difference; UPDATE_GOLDEN=1 records it"


def test_lint(helm: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_definitions_are_those_of_the_models(render: Callable[..., list[dict[str, Any]]]) -> None:
    kept = of_kind(render(), "CustomResourceDefinition")
    assert len(kept) == len(crd.KINDS)
    assert all(body["metadata"].pop("annotations") == {crd.KEEP: "keep"} for body in kept)
    plain = of_kind(render("--set", "crds.keep=false"), "CustomResourceDefinition")
    wanted = sorted((crd.definition(kind) for kind in crd.KINDS), key=lambda body: body["metadata"]["name"])
    assert sorted(kept, key=lambda body: body["metadata"]["name"]) == wanted
    assert sorted(plain, key=lambda body: body["metadata"]["name"]) == wanted
    assert not of_kind(render("--set", "crds.install=false"), "CustomResourceDefinition")


def test_rights_are_least_and_sorted(render: Callable[..., list[dict[str, Any]]]) -> None:
    documents = render("--values", str(HERE / "values" / "full.yaml"))
    rules = [
        rule
        for kind in ("Role", "ClusterRole")
        for role in of_kind(documents, kind)
        for rule in role["rules"]
    ]
    assert rules
    for rule in rules:
        words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
        assert "*" not in words
        assert not {"secrets", "escalate", "bind", "impersonate"} & set(words)
        assert rule["verbs"] == sorted(rule["verbs"])
        assert rule["resources"] == sorted(rule["resources"])
    operator = next(
        role for role in of_kind(documents, "ClusterRole") if role["metadata"]["name"] == "mlenv-operator"
    )
    keys = [(rule["apiGroups"], rule["resources"]) for rule in operator["rules"]]
    assert keys == sorted(keys)


def test_pods_are_restricted(render: Callable[..., list[dict[str, Any]]]) -> None:
    found = pods(render("--values", str(HERE / "values" / "full.yaml")))
    assert len(found) == 4  # operator, wait, uninstall, test
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "cpu" not in container["resources"]["limits"]
            assert container["resources"]["limits"]["memory"]
            assert not container["image"].endswith(":latest")


def test_hooks_leave_nothing(render: Callable[..., list[dict[str, Any]]]) -> None:
    for document in render("--values", str(HERE / "values" / "full.yaml")):
        notes = document["metadata"].get("annotations", {})
        hook = notes.get("helm.sh/hook", "")
        if hook.startswith("post-install,"):  # the environments themselves, which a pre-delete hook removes
            continue
        if hook:
            assert "before-hook-creation" in notes["helm.sh/hook-delete-policy"]
            assert "hook-succeeded" in notes["helm.sh/hook-delete-policy"]


@pytest.mark.parametrize(
    ("setting", "image"),
    [
        ("image.tag=v2", "mlenv/operator:v2"),
        ("global.imageRegistry=reg.example", "reg.example/mlenv/operator:0.1.0"),
        ("image.registry=a,global.imageRegistry=b", "a/mlenv/operator:0.1.0"),
        (f"image.tag=v2,image.digest=sha256:{'0' * 64}", f"mlenv/operator@sha256:{'0' * 64}"),
    ],
)
def test_images(render: Callable[..., list[dict[str, Any]]], setting: str, image: str) -> None:
    for pod in pods(render("--set", setting)):
        assert [container["image"] for container in pod["containers"]] == [image]


MISTAKES = {
    "unknown=1": "additional properties 'unknown' not allowed",
    "crds.instal=true": "additional properties 'instal' not allowed",
    "replicas=-1": "minimum: got -1, want 0",
    "image.digest=latest": "does not match pattern",
    "environments[0].name=A_B,environments[0].spec.image=x": "does not match pattern",
    "environments[0].name=a": "missing property 'spec'",
    "ledger.type=sqlite": "maximum: got 2, want 1",
    "ledger.type=sqlite,replicas=3": "maximum: got 3, want 1",
    "ledger.type=postgresql": "minLength: got 0, want 1",
    "metrics.serviceMonitor.interval=often": "does not match pattern",
    "ledger.type=mysql": "value must be one of 'none', 'sqlite', 'postgresql'",
    "ledger.shares=fair": "does not match pattern",
    "ledger.unheld=ours": "value must be one of 'unattributed', 'idle'",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_values_are_checked(helm: Callable[..., subprocess.CompletedProcess[str]], setting: str) -> None:
    done = helm("template", "mlenv", str(CHART), "--set", setting)
    assert done.returncode != 0
    assert MISTAKES[setting] in done.stderr


def test_the_schema_knows_every_value() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(node: dict[str, Any], value: dict[str, Any], path: str) -> None:
        if "properties" not in node:
            return
        assert set(node["properties"]) == set(value), path
        for key, child in value.items():
            if isinstance(child, dict):
                check(node["properties"][key], child, f"{path}.{key}")

    check(schema, values, "")


def test_names_agree_with_the_operator(render: Callable[..., list[dict[str, Any]]]) -> None:
    documents = render()
    assert of_kind(documents, "Service")[0]["spec"]["ports"][0]["port"] == names.OPERATOR_PORT
    leases = [
        rule["resourceNames"]
        for role in of_kind(documents, "Role")
        for rule in role["rules"]
        if "resourceNames" in rule
    ]
    assert leases == [[names.LEASE_NAME], [names.LEASE_NAME]]


def test_one_replica_needs_no_disruption_budget(render: Callable[..., list[dict[str, Any]]]) -> None:
    assert of_kind(render(), "PodDisruptionBudget")
    assert not of_kind(render("--set", "replicas=1"), "PodDisruptionBudget")


def test_the_ledgers_volume_is_had_by_one_and_stays(render: Callable[..., list[dict[str, Any]]]) -> None:
    documents = render("--set", "ledger.type=sqlite,replicas=1")
    assert of_kind(documents, "Deployment")[0]["spec"]["strategy"] == {"type": "Recreate"}
    claim = of_kind(documents, "PersistentVolumeClaim")[0]
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    own = render("--set", "ledger.type=sqlite,replicas=1,ledger.sqlite.existingClaim=mine")
    assert not of_kind(own, "PersistentVolumeClaim")
    volumes = of_kind(own, "Deployment")[0]["spec"]["template"]["spec"]["volumes"]
    assert {"name": "ledger", "persistentVolumeClaim": {"claimName": "mine"}} in volumes


def test_how_nodes_are_shared_is_told_to_the_operator(render: Callable[..., list[dict[str, Any]]]) -> None:
    def told(*settings: str) -> dict[str, str]:
        (operator,) = of_kind(render("--set", ",".join(settings)), "Deployment")
        variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
        prefix = "MLENV_OPERATOR_LEDGER_"
        return {
            one["name"].removeprefix(prefix): one["value"]
            for one in variables
            if one["name"].startswith(prefix)
        }

    sqlite = ("ledger.type=sqlite", "replicas=1")
    others = ("ledger.shares=weights=9/0.9/0.1", "ledger.unheld=idle", "ledger.labels={cost-center,site}")
    assert told(*sqlite) == {"DSN": "sqlite:////ledger/ledger.db"}
    assert told(*others) == {}
    assert told(*sqlite, *others) == {
        "DSN": "sqlite:////ledger/ledger.db",
        "SHARES": "weights=9/0.9/0.1",
        "UNHELD": "idle",
        "LABELS": "cost-center,site",
    }


def test_a_price_list_is_mounted_for_the_operator(render: Callable[..., list[dict[str, Any]]]) -> None:
    on = "ledger.type=sqlite,replicas=1,ledger.prices.configMap=spot,ledger.prices.key=list.csv"
    (operator,) = of_kind(render("--set", on), "Deployment")
    pod = operator["spec"]["template"]["spec"]
    assert {"name": "prices", "configMap": {"name": "spot", "optional": True}} in pod["volumes"]
    (container,) = pod["containers"]
    assert {"name": "prices", "mountPath": "/prices", "readOnly": True} in container["volumeMounts"]
    assert {"name": "MLENV_OPERATOR_PRICE_FILE", "value": "/prices/list.csv"} in container["env"]


def test_rules_are_those_of_the_file(render: Callable[..., list[dict[str, Any]]]) -> None:
    rules = yaml.safe_load((CHART / "files" / "rules.yaml").read_text())
    assert not of_kind(render(), "PrometheusRule")
    on = "metrics.prometheusRule.enabled=true,metrics.prometheusRule.labels.release=prom"
    (one,) = of_kind(render("--set", on), "PrometheusRule")
    assert one["spec"] == rules
    assert one["metadata"]["labels"]["release"] == "prom"
    (one,) = of_kind(
        render("--set", f"{on},metrics.prometheusRule.runbook=https://docs.example.com/metrics"),
        "PrometheusRule",
    )
    found = [
        rule["annotations"]["runbook_url"]
        for group in one["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    assert found
    assert all(one.startswith("https://docs.example.com/metrics#mlenv") for one in found)


def test_the_service_monitor_selects_the_service(render: Callable[..., list[dict[str, Any]]]) -> None:
    documents = render("--set", "metrics.serviceMonitor.enabled=true")
    (monitor,) = of_kind(documents, "ServiceMonitor")
    (service,) = of_kind(documents, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["honorLabels"] is True


def test_the_versions_agree() -> None:
    root = CHART.parents[1]
    version = tomllib.loads((root / "operator" / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == version
    assert f'org.opencontainers.image.version="{version}"' in (root / "Dockerfile").read_text()


def test_the_readme_mentions_every_value() -> None:
    page = (CHART / "README.md").read_text()
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert not [name for name in values if f"`{name}`" not in page]
