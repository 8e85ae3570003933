from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from mlenv_local import configs
from mlenv_local.components import component, components, node_components
from mlenv_local.errors import LocalError
from mlenv_local.layout import Layout

LAYOUT = Layout("t", 201, 2)
BIN = Path("/opt/bin")
FILES = configs.files(LAYOUT, configs.HostFacts(resolvers=("9.9.9.9",)), BIN / "pause")


def argv(name: str) -> tuple[str, ...]:
    return component(LAYOUT, BIN, name).argv


def test_every_file_that_a_component_names_is_written_or_made_elsewhere() -> None:
    elsewhere = {"kubelet", "etcd", "containerd"}  # data folders
    for part in components(LAYOUT, BIN):
        for path in re.findall(rf"{LAYOUT.root}[^\s,]*", " ".join(part.argv)):
            known = Path(path) in FILES or LAYOUT.pki in Path(path).parents or Path(path).name in elsewhere
            assert known or Path(path) == LAYOUT.audit_log, path


def test_component_names_and_logs_are_unique() -> None:
    parts = components(LAYOUT, BIN)
    assert len({p.name for p in parts}) == len(parts) == 12
    assert len({p.log for p in parts}) == len(parts)


def test_an_unknown_component_is_answered_with_those_there_are() -> None:
    with pytest.raises(LocalError, match=r"has no component 'x'; it has etcd, kube-apiserver"):
        component(LAYOUT, BIN, "x")


def test_least_privilege_is_switched_on() -> None:
    server = argv("kube-apiserver")
    assert "--authorization-mode=Node,RBAC" in server
    assert "--enable-admission-plugins=NodeRestriction,OwnerReferencesPermissionEnforcement" in server
    configs_used = [
        flag for c in components(LAYOUT, BIN) for flag in c.argv if flag.startswith("--kubeconfig")
    ]
    assert not any("admin" in flag for flag in configs_used)
    assert len(set(configs_used)) == len(configs_used) == 4  # manager, scheduler, two kubelets


def test_etcd_listens_on_loopback_alone() -> None:
    urls = re.findall(r"http://([^:]+):", " ".join(argv("etcd")))
    assert set(urls) == {"127.0.0.1"}


def test_no_two_machines_share_a_folder() -> None:
    for node in LAYOUT.nodes:
        others = [m.root for m in LAYOUT.machines if m != node]
        own = [text for path, text in FILES.items() if node.root in path.parents]
        assert own
        assert not any(str(other) + "/" in text for other in others for text in own)


def test_the_kubelet_never_loses_images_nor_touches_the_hosts_folders() -> None:
    kubelet = yaml.safe_load(FILES[LAYOUT.nodes[0].root / "kubelet.yaml"])
    assert kubelet["imageGCHighThresholdPercent"] == 100
    assert all(not value.endswith("%") for value in kubelet["evictionHard"].values())
    assert kubelet["cgroupRoot"] == "/mlenv/t/node-1"
    paths = [kubelet[key] for key in ("podLogsDir", "volumePluginDir", "resolvConf")]
    assert all(path.startswith(f"{LAYOUT.root}/node-1/") for path in paths)


def test_containerd_is_told_where_it_may_not_lower_its_score() -> None:
    node = LAYOUT.nodes[1]
    for allowed in (True, False):
        text = configs.containerd(LAYOUT, node, configs.HostFacts(can_lower_oom_score=allowed))
        cri = tomllib.loads(text)["plugins"]["io.containerd.grpc.v1.cri"]
        assert cri["restrict_oom_score_adj"] is not allowed
        assert cri["cni"]["conf_dir"] == f"{node.root}/cni"


def test_pods_of_a_node_get_addresses_of_that_node() -> None:
    for node in LAYOUT.nodes:
        plugin = json.loads(FILES[node.root / "cni" / "10-mlenv.conflist"])["plugins"][0]
        assert plugin["ipam"]["ranges"] == [[{"subnet": str(node.pods)}]]


def test_without_a_reachable_resolver_only_cluster_names_are_served() -> None:
    assert "forward" not in configs.corefile(LAYOUT, configs.HostFacts())
    assert "forward . 9.9.9.9" in FILES[LAYOUT.control.root / "Corefile"]


def test_a_machine_covers_what_the_kubelet_would_change_for_the_whole_host() -> None:
    script = FILES[LAYOUT.nodes[0].root / "init.sh"]
    for key in configs.KERNEL_TUNABLES:
        assert f"/proc/sys/{key}\n" in script
    assert script.rstrip().endswith("exec /opt/bin/pause")


def test_writes_are_audited_and_reads_are_not() -> None:
    quiet, loud = yaml.safe_load(configs.audit_policy())["rules"]
    assert (quiet["level"], quiet["verbs"]) == ("None", ["get", "list", "watch"])
    assert loud["level"] == "Metadata"


def test_a_nodes_runtime_starts_before_its_kubelet() -> None:
    names = [c.name for c in node_components(LAYOUT, LAYOUT.nodes[0], BIN)]
    assert names == ["node-1/containerd", "node-1/kubelet", "node-1/kube-proxy"]
