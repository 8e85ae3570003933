"""A cluster of its own, tried as a user and as a saboteur would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mlenv_local import Cluster, LocalError, needs
from mlenv_local.binaries import cache_folder
from mlenv_local.images.build import build
from mlenv_local.images.builder import Builder
from mlenv_local.images.runtime import RUNTIME_IMAGE, host_runtime, runtime_archive
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e
RUNTIME = host_runtime()
SERVER = "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8000)"
ASK = """
import sys, time, urllib.request
deadline = time.monotonic() + 120
while True:
    try:
        print(urllib.request.urlopen(sys.argv[1], timeout=2).status)
        break
    except OSError as error:
        if time.monotonic() > deadline: raise
        time.sleep(0.2)
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    missing = needs.judge(needs.look())
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster("mlenv-tc")
    found.down()
    found.up(nodes=2, fake_gpus=3)
    found.load_image(runtime_archive(tmp_path_factory.mktemp("images")))
    yield found
    found.down()
    assert found.leftovers() == []


def pod(name: str, node: str, *argv: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": RUNTIME_IMAGE,
        "command": [RUNTIME.python, "-u", "-c", *argv],
        "env": list(RUNTIME.env),
        "volumeMounts": list(RUNTIME.volume_mounts),
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
            "volumes": list(RUNTIME.volumes),
            **spec,
        },
    }


def finished(cluster: Cluster, name: str) -> str:
    """Wait for the pod's end and return its output."""

    def phase() -> str:
        return str(cluster.kubectl.get("pod", name)["status"].get("phase"))

    assert wait_until(lambda: phase() in ("Succeeded", "Failed"), seconds=300, interval=0.3), phase()
    output = cluster.kubectl("logs", name)
    assert phase() == "Succeeded", output
    return output


def running(cluster: Cluster, name: str) -> None:
    cluster.kubectl("wait", f"pod/{name}", "--for=condition=Ready", "--timeout=300s", timeout=330)


@pytest.fixture(scope="module")
def server(cluster: Cluster) -> str:
    """A pod on node 1 behind a ClusterIP and a headless service."""
    ports = [{"port": 80, "targetPort": 8000}]
    meta = {"name": "web"}
    service = {"selector": {"app": "server"}, "ports": ports}
    cluster.kubectl.apply(
        pod("server", "node-1", SERVER),
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "headless"},
            "spec": {**service, "clusterIP": "None"},
        },
    )
    running(cluster, "server")
    return "server"


@pytest.mark.parametrize("node", ["node-1", "node-2"])
def test_pods_reach_services_by_name_from_every_node(cluster: Cluster, server: str, node: str) -> None:
    for name, url in {
        "cip": "http://web/",
        "head": "http://headless.default.svc.cluster.local:8000/",
    }.items():
        cluster.kubectl.apply(pod(f"{name}-{node}", node, ASK, url))
    assert finished(cluster, f"cip-{node}").strip() == "200"
    assert finished(cluster, f"head-{node}").strip() == "200"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, server: str) -> None:
    argv = [RUNTIME.python, "-c", ASK, "http://web/"]
    assert cluster.kubectl("exec", server, "--", *argv).strip() == "200"


def test_the_host_reaches_pods_and_services(cluster: Cluster, server: str) -> None:
    import urllib.request

    pod_ip = cluster.kubectl.get("pod", server)["status"]["podIP"]
    service_ip = cluster.kubectl.get("service", "web")["spec"]["clusterIP"]
    for url in (f"http://{pod_ip}:8000/", f"http://{service_ip}/"):
        assert urllib.request.urlopen(url, timeout=10).status == 200


def test_pods_do_not_reach_etcd(cluster: Cluster) -> None:
    script = (
        "import socket, sys\n"
        "try: socket.create_connection((sys.argv[1], 2379), 3)\n"
        "except OSError: print('closed')"
    )
    cluster.kubectl.apply(pod("nosy", "node-2", script, str(cluster.layout.control.address)))
    assert finished(cluster, "nosy").strip() == "closed"


def test_containers_run_as_nobody_special_on_a_read_only_host(cluster: Cluster) -> None:
    script = (
        "import os, pathlib\n"
        "print(os.getuid()); pathlib.Path('/tmp/x').write_text('ok')\n"
        "try: pathlib.Path('/usr/x').write_text('no')\n"
        "except OSError as error: print(error.strerror)"
    )
    cluster.kubectl.apply(pod("user", "node-1", script))
    assert finished(cluster, "user").splitlines() == ["65532", "Read-only file system"]


def test_made_up_gpus_are_scheduled_and_counted(cluster: Cluster) -> None:
    gpu_pods = []
    for i in range(3):
        manifest = pod(f"gpu-{i}", "", "import time; time.sleep(3600)")
        del manifest["spec"]["nodeName"]
        manifest["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "2"}}
        gpu_pods.append(manifest)
    cluster.kubectl.apply(*gpu_pods[:2])
    for manifest in gpu_pods[:2]:
        running(cluster, manifest["metadata"]["name"])
    nodes = {cluster.kubectl.get("pod", f"gpu-{i}")["spec"]["nodeName"] for i in range(2)}
    assert nodes == {"node-1", "node-2"}  # three of each node: no node holds two such pods
    cluster.kubectl.apply(gpu_pods[2])
    assert wait_until(lambda: "Insufficient nvidia.com/gpu" in _unschedulable(cluster, "gpu-2"), seconds=300)
    cluster.kubectl("delete", "pod", "gpu-0", "gpu-1", "gpu-2")


def _unschedulable(cluster: Cluster, name: str) -> str:
    conditions = cluster.kubectl.get("pod", name)["status"].get("conditions", [])
    return " ".join(c.get("message", "") for c in conditions)


def test_a_kubelet_may_change_nothing_of_another_node(cluster: Cluster) -> None:
    config = cluster.layout.pki / "node-1.kubeconfig"
    with pytest.raises(LocalError, match="'node-1' cannot read 'node-2'"):
        cluster.kubectl("label", "node", "node-2", "a=b", f"--kubeconfig={config}")


def test_tokens_signed_with_the_clusters_key_are_believed(cluster: Cluster) -> None:
    token = cluster.kubectl("create", "token", "default").strip()
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    assert load_pem_private_key(cluster.sa_signing_key.read_bytes(), None).key_size == 2048  # type: ignore[union-attr]
    anonymous = ["--kubeconfig=/dev/null", f"--server={cluster.layout.server}", "--insecure-skip-tls-verify"]
    with pytest.raises(LocalError, match="system:serviceaccount:default:default"):
        cluster.kubectl("get", "secrets", f"--token={token}", *anonymous)


def test_the_audit_log_counts_writes_by_user(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "counted")
    cluster.kubectl("get", "configmap", "counted")

    def found() -> list[dict[str, Any]]:
        lines = cluster.audit_log.read_text().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]  # the last is on its way
        return [e for e in entries if e["objectRef"].get("name") == "counted"]

    assert wait_until(lambda: bool(found()), seconds=300)
    mine = found()
    assert [(e["verb"], e["user"]["username"], e["responseStatus"]["code"]) for e in mine] == [
        ("create", "mlenv-admin", 201)
    ]
    assert "requestObject" not in mine[0]


@pytest.mark.parametrize("name", ["etcd", "kube-apiserver", "node-1/kubelet", "node-2/containerd"])
def test_a_killed_component_is_seen_and_started_again(cluster: Cluster, server: str, name: str) -> None:
    cluster.kill_component(name)
    assert cluster.status()[name] is False
    cluster.start_component(name)
    assert cluster.status()[name] is True
    cluster.up(nodes=2, fake_gpus=3)
    uid = cluster.kubectl.get("pod", server)["metadata"]["uid"]
    # A kubelet that has just begun is Ready before it has heard of its pods.
    assert wait_until(lambda: _answers(cluster, server), seconds=300, interval=0.5)
    assert cluster.kubectl.get("pod", server)["metadata"]["uid"] == uid


def _answers(cluster: Cluster, pod: str) -> bool:
    try:
        cluster.kubectl("exec", pod, "--", RUNTIME.python, "-c", "pass")
    except LocalError:
        return False
    return True


def test_what_died_is_named_with_its_log(cluster: Cluster) -> None:
    broken = cluster.layout.nodes[1].root / "containerd.toml"
    cluster.kill_component("node-2/containerd")
    good = broken.read_text()
    broken.write_text("version = 2\nnonsense")
    try:
        cluster.start_component("node-2/containerd")
        assert wait_until(lambda: not cluster.status()["node-2/containerd"], seconds=120)
        log = cluster.log("node-2/containerd")
        assert "nonsense" in log.read_text() or "containerd.toml" in log.read_text()
    finally:
        broken.write_text(good)
        cluster.start_component("node-2/containerd")
        cluster.up(nodes=2, fake_gpus=3)


def test_a_lost_node_is_noticed_and_comes_back(cluster: Cluster, server: str) -> None:
    node = cluster.node(2)
    cluster.kubectl.apply(pod("victim", "node-2", "import time; time.sleep(3600)"))
    running(cluster, "victim")
    node.stop()
    assert wait_until(lambda: cluster.ready_nodes() == ["node-1"], seconds=300, interval=0.5)
    node.start()
    assert cluster.ready_nodes() == ["node-1", "node-2"]
    assert cluster.kubectl.get("node", "node-2")["status"]["capacity"]["nvidia.com/gpu"] == "3"
    assert wait_until(lambda: _has_ended(cluster, "victim"), seconds=300, interval=0.5)
    cluster.kubectl.apply(pod("after", "node-2", ASK, "http://web/"))
    assert finished(cluster, "after").strip() == "200"


def _has_ended(cluster: Cluster, name: str) -> bool:
    return cluster.kubectl.get("pod", name)["status"]["phase"] in ("Failed", "Succeeded")


def test_a_cut_cable_silences_a_node_without_killing_its_pods(cluster: Cluster, server: str) -> None:
    node = cluster.node(1)
    node.cut()
    try:
        with pytest.raises(LocalError):
            cluster.kubectl("logs", server, "--request-timeout=3s")
        assert cluster.status()["node-1/kubelet"]
    finally:
        node.heal()
    assert wait_until(lambda: cluster.ready_nodes() == ["node-1", "node-2"], seconds=300, interval=0.5)
    cluster.kubectl("exec", server, "--", RUNTIME.python, "-c", "pass")


def test_blocked_addresses_are_out_of_reach_until_they_are_not(cluster: Cluster, server: str) -> None:
    node = cluster.node(2)
    script = (
        "import sys, urllib.request\n"
        "try: print(urllib.request.urlopen(sys.argv[1], timeout=3).status)\n"
        "except OSError: print('blocked')"
    )
    service_ip = cluster.kubectl.get("service", "web")["spec"]["clusterIP"]
    node.block(service_ip)
    cluster.kubectl.apply(pod("blocked", "node-2", script, f"http://{service_ip}/"))
    assert finished(cluster, "blocked").strip() == "blocked"
    node.block()
    cluster.kubectl.apply(pod("unblocked", "node-2", ASK, f"http://{service_ip}/"))
    assert finished(cluster, "unblocked").strip() == "200"


def test_a_second_up_changes_nothing(cluster: Cluster) -> None:
    before = cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}")
    assert cluster.up(nodes=2, fake_gpus=3) == cluster.kubeconfig
    assert cluster.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.uid}") == before
    with pytest.raises(LocalError, match="has node_count=2, not 3: take it down first"):
        cluster.up(nodes=3)


def test_the_host_itself_is_left_as_it_was(cluster: Cluster) -> None:
    tunables = {
        path: Path("/proc/sys", path).read_text() for path in ("kernel/panic", "vm/overcommit_memory")
    }
    node = cluster.node(1)
    assert node.run("cat", "/proc/sys/kernel/panic").strip() == "10"
    assert node.run("cat", "/proc/sys/vm/overcommit_memory").strip() == "1"
    assert tunables == {path: Path("/proc/sys", path).read_text() for path in tunables}
    assert not list(Path("/var/log/containers").glob("*"))
    assert not list(Path("/var/lib/kubelet").iterdir())


DOCKERFILE = """
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
RUN python3 -m venv /opt/six && /opt/six/bin/pip install --quiet --no-cache-dir six==1.17.0
FROM ${PYTHON_IMAGE}
COPY --from=build /opt/six /opt/six
COPY hello.py /
RUN python3 -c "print(1)"
USER 65532:65532
ENTRYPOINT ["/opt/six/bin/python", "/hello.py"]
"""


def test_a_dockerfile_becomes_a_pod_and_keeps_nothing_of_this_machine(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = needs.judge(needs.look(), images=True)
    if missing:
        pytest.skip(needs.explain(missing))
    monkeypatch.setenv("PIP_INDEX_URL", "https://nobody:secret-of-this-machine@pypi.org/simple")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    text = f"import os, six; print(os.getuid(), six.__version__, {str(tmp_path)!r})"
    (tmp_path / "hello.py").write_text(text)
    archive = build(tmp_path / "Dockerfile", tmp_path, "mlenv.io/hello:1")
    assert build(tmp_path / "Dockerfile", tmp_path, "mlenv.io/hello:1") == archive
    try:
        assert secrets_in(archive, b"secret-of-this-machine") == []
        cluster.load_image(archive)
        manifest = pod("hello", "node-2", volumes=[])
        manifest["spec"]["containers"] = [
            {"name": "main", "image": "mlenv.io/hello:1", "imagePullPolicy": "Never"}
        ]
        cluster.kubectl.apply(manifest)
        assert finished(cluster, "hello").strip() == f"65532 1.17.0 {tmp_path}"
    finally:
        archive.unlink()
        Builder(cache_folder() / "buildah").buildah("rmi", "mlenv.io/hello:1")


def secrets_in(archive: Path, secret: bytes) -> list[str]:
    """Where in an image the bytes are, in any layer or in what describes it."""
    import gzip
    import tarfile

    found = []
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            blob = tar.extractfile(member).read() if member.isfile() else b""  # type: ignore[union-attr]
            content = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
            found += [member.name] if secret in content or b"pip.conf" in blob else []
    return found
