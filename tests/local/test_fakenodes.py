from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlenv_local import binaries, configs, fakenodes, store
from mlenv_local.components import component, components
from mlenv_local.errors import LocalError
from mlenv_local.layout import MAX_FAKE_NODES, Layout
from mlenv_local.pki import certificates
from mlenv_local.versions import KWOK

LAYOUT = Layout("t", 201, 1, fake_nodes=3, fake_gpus=4)
BIN = Path("/opt/bin/0123")
OPTIONS, *STAGES = yaml.safe_load_all(fakenodes.config(LAYOUT))


def test_without_fake_nodes_there_is_no_kwok() -> None:
    plain = Layout("t", 201, 1)
    assert "kwok" not in {one.name for one in components(plain, BIN)}
    assert "kwok" not in {one.file for one in certificates(plain)}
    assert not any(path.name == "kwok.yaml" for path in configs.files(plain, configs.HostFacts(), BIN))


def test_kwok_is_a_component_with_a_certificate_and_a_configuration_of_its_own() -> None:
    argv = component(LAYOUT, BIN, "kwok").argv
    assert f"--kubeconfig={LAYOUT.pki}/kwok.kubeconfig" in argv
    written = configs.files(LAYOUT, configs.HostFacts(), BIN)
    assert f"--config={LAYOUT.control.root}/kwok.yaml" in argv
    assert LAYOUT.control.root / "kwok.yaml" in written
    [certificate] = [one for one in certificates(LAYOUT) if one.file == "kwok"]
    assert (certificate.common_name, certificate.organizations) == (fakenodes.USER, ())


def test_kwok_is_built_apart_and_lies_beside_the_other_programs() -> None:
    argv = component(LAYOUT, BIN, "kwok").argv
    assert str(BIN.with_name(binaries.FAKE_NODES.key()) / "kwok") in argv
    assert f"sigs.k8s.io/kwok {KWOK}\n" in (binaries.FAKE_NODES.sources / "go.mod").read_text()
    assert binaries.FAKE_NODES.key() != binaries.CLUSTER.key()


def test_what_kwok_does_not_start_without_is_set() -> None:
    options = OPTIONS["options"]
    for name in ("nodeLeaseParallelism", "nodePlayStageParallelism", "podPlayStageParallelism"):
        assert options[name] > 0
    assert options["manageNodesWithLabelSelector"] == "local.mlenv.io/fake=true,local.mlenv.io/lost!=true"


def test_addresses_of_fake_pods_are_enough_and_nobody_elses() -> None:
    addresses = IPv4Network(OPTIONS["options"]["cidr"])
    assert addresses.num_addresses > MAX_FAKE_NODES * fakenodes.PODS_PER_NODE
    assert not addresses.overlaps(IPv4Network("10.0.0.0/8"))


def test_every_stage_says_what_it_is_for_and_no_two_have_a_name() -> None:
    kinds = [(one["metadata"]["name"], one["spec"]["resourceRef"]["kind"]) for one in STAGES]
    assert kinds == [("node-ready", "Node"), ("pod-start", "Pod"), ("pod-end", "Pod"), ("pod-gone", "Pod")]


def test_stages_obey_the_annotations_that_are_documented() -> None:
    text = fakenodes.STAGES.read_text()
    readme = (Path(__file__).parents[2] / "local" / "README.md").read_text()
    said = {value for name, value in vars(fakenodes).items() if name.startswith("ANNOTATION_")}
    assert len(said) == 4
    for name in said:
        assert f'"{name}"' in text
        assert f"`{name}`" in readme


def test_no_stage_touches_finalizers() -> None:
    """An operator's own must survive, or what it counts on could not be tested here."""
    assert not any("finalizers" in step for one in STAGES for step in one["spec"]["steps"])


def test_fake_nodes_keep_out_what_does_not_ask_for_them() -> None:
    for node in fakenodes.nodes(LAYOUT, LAYOUT.fake_node_names):
        [taint] = node["spec"]["taints"]
        assert (taint["key"], taint["effect"]) == (fakenodes.TOLERATION["key"], "NoSchedule")
        assert fakenodes.NODE_SELECTOR.items() <= node["metadata"]["labels"].items()
        assert node["status"]["capacity"] == node["status"]["allocatable"]
        assert node["status"]["capacity"]["nvidia.com/gpu"] == "4"


def test_ten_thousand_jobs_of_four_pods_have_room() -> None:
    assert MAX_FAKE_NODES * fakenodes.PODS_PER_NODE >= 40_000


def test_kwok_may_do_a_kubelets_work_and_no_more() -> None:
    roles = {one["kind"]: one for one in fakenodes.rights() if one["kind"] in ("Role", "ClusterRole")}
    allowed = {
        (resource, verb)
        for one in roles.values()
        for rule in one["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert allowed == {
        ("nodes/status", "patch"),
        ("pods/status", "patch"),
        ("pods", "delete"),
        ("leases", "create"),
        ("leases", "update"),
    }
    assert roles["Role"]["metadata"]["namespace"] == fakenodes.LEASES


def test_only_with_fake_nodes_are_scheduler_and_controllers_not_throttled() -> None:
    for name in ("kube-scheduler", "kube-controller-manager"):
        for layout, throttled in ((LAYOUT, False), (Layout("t", 201, 1), True)):
            flags = " ".join(component(layout, BIN, name).argv)
            assert ("--kube-api-qps" not in flags) is throttled


def test_a_pods_state_is_written_over_the_version_it_was_chosen_for() -> None:
    """KWOK replays what it has seen whenever its watch falls behind, and would start pods twice."""
    for one in STAGES:
        for step in one["spec"]["steps"]:
            if one["spec"]["resourceRef"]["kind"] == "Pod" and "patch" in step:
                assert "resourceVersion: {{ .metadata.resourceVersion | Quote }}" in step["patch"]["template"]


def test_a_clusters_fake_nodes_are_remembered() -> None:
    assert store.from_json("t", LAYOUT.state, store.to_json(LAYOUT)).fake_nodes == 3


@pytest.mark.parametrize("count", [-1, MAX_FAKE_NODES + 1])
def test_a_number_of_fake_nodes_that_is_too_big_is_refused(count: int) -> None:
    with pytest.raises(LocalError, match="0 to 500 fake nodes"):
        Layout("t", 201, 1, fake_nodes=count)


@pytest.mark.parametrize(
    ("labels", "lost"), [({}, False), ({fakenodes.LABEL_LOST: "true"}, True), ({"x": "true"}, False)]
)
def test_which_nodes_are_lost(labels: dict[str, str], *, lost: bool) -> None:
    node: dict[str, Any] = {"metadata": {"name": "fake-1", "labels": labels}}
    assert fakenodes.is_lost(node) is lost
