"""The platform on a local cluster: the operator's image built and loaded, the chart installed.

Jobs name the environment ``local``: an almost empty image into which this machine's own Python, virtual
environment and packages are mounted read-only, so that nothing of 5 GB is built or copied.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from mlenv_api import __version__
from mlenv_local.binaries import cache_folder
from mlenv_local.errors import LocalError
from mlenv_local.images.build import build
from mlenv_local.images.context import content_hash
from mlenv_local.images.runtime import RUNTIME_IMAGE, HostRuntime, host_runtime, runtime_archive
from mlenv_local.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mlenv_local.cluster import Cluster
    from mlenv_local.external import ExternalCluster

RELEASE = "mlenv"
NAMESPACE = "mlenv-system"
ENVIRONMENT = "local"
REGISTRY = "mlenv.io"  # a full name, or containerd and the kubelet would complete it differently
REPOSITORY = "mlenv/operator"
CHART = "helm/mlenv"
INSTALL_SECONDS = 150


def install(
    cluster: Cluster,
    root: Path,
    *,
    mounts: Mapping[str, Path] | None = None,
    values: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    namespaces: tuple[str, ...] = ("default",),
    consent: bool = False,
) -> None:
    """Install the platform of a checkout, or bring an installed one up to date; ready when it returns.

    Args:
        cluster: A running cluster.
        root: The checkout.
        mounts: Folders of this machine that jobs see read-only, by their place in the pods.
        values: More values for the chart, over those of a local installation.
        environment: More of the spec of the environment `local`, as `tracking`.
        namespaces: Where jobs are to run; made if need be, and allowed to mount folders of this machine.
        consent: Whether missing Debian packages may be installed.
    """
    runtime = host_runtime()
    check_readable([Path(one["hostPath"]["path"]) for one in runtime.volumes] + list((mounts or {}).values()))
    tag = load_images(cluster, root, consent=consent)
    with cluster.reporter.step("Platform (helm install)"):
        for namespace in namespaces:
            cluster.kubectl.apply(_namespace(namespace))
        chart = chart_values(runtime, tag, mounts or {}, environment or {})
        helm_install(cluster, root, {**chart, **(values or {})})


def check_readable(paths: Iterable[Path]) -> None:
    """Raise LocalError if the user of the pods could not read these paths."""
    closed = [path for path in paths if not path.stat().st_mode & stat.S_IROTH]
    if closed:
        places = " ".join(map(str, closed))
        raise LocalError(f"Pods read these as another user, who may not: chmod -R o+rX {places}")


def load_images(cluster: Cluster, root: Path, *, consent: bool = False) -> str:
    """Bring the operator's image and the runtime image into every node; gives the operator's tag."""
    # The tag names the content, so that a changed operator is rolled out and an unchanged one is left alone.
    tag = f"{__version__}-{content_hash(root / 'Dockerfile', root, {}, '')}"
    name = f"{REGISTRY}/{REPOSITORY}:{tag}"
    operator = build(root / "Dockerfile", root, name, reporter=cluster.reporter, consent=consent)
    with cluster.reporter.step("Images into every node"):
        for archive in (operator, runtime_archive(cache_folder() / "images")):
            cluster.load_image(archive)
    return tag


def chart_values(
    runtime: HostRuntime, tag: str, mounts: Mapping[str, Path], more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Any]:
    """The chart's values for a local installation, with `more` of its environment's spec: pure."""
    extra = [
        (
            {"name": f"data-{number}", "hostPath": {"path": str(source), "type": "Directory"}},
            {"name": f"data-{number}", "mountPath": target, "readOnly": True},
        )
        for number, (target, source) in enumerate(mounts.items())
    ]
    pod = {
        "volumes": [*runtime.volumes, *(volume for volume, _ in extra)],
        "volumeMounts": [*runtime.volume_mounts, *(mount for _, mount in extra)],
    }
    environment = {
        "description": "The Python, packages and checkout of the machine that this cluster runs on.",
        "image": RUNTIME_IMAGE,
        "imagePullPolicy": "Never",
        "launcherCommand": [runtime.python, "-m", "mlenv.launch", "--"],
        "env": list(runtime.env),
        "podTemplate": {"spec": pod},
        **more,
    }
    return {
        "image": {"registry": REGISTRY, "repository": REPOSITORY, "tag": tag, "pullPolicy": "Never"},
        "environments": [{"name": ENVIRONMENT, "spec": environment}],
    }


def helm_install(cluster: Cluster | ExternalCluster, root: Path, values: Mapping[str, Any]) -> None:
    """Install or upgrade the release, and wait until it is ready; the error says what the pods say."""
    release = [RELEASE, str(root / CHART), "--namespace", NAMESPACE, "--create-namespace"]
    wait = ["--wait", "--timeout", f"{INSTALL_SECONDS}s", "--values", "-"]
    try:
        helm(cluster, "upgrade", "--install", *release, *wait, stdin=json.dumps(values))
    except LocalError as error:
        raise LocalError(f"{error}\n{state(cluster)}".strip()) from error


def uninstall(cluster: Cluster) -> None:
    """Remove the release; the definitions and jobs stay, as the chart keeps them."""
    release = [RELEASE, "--namespace", NAMESPACE, "--ignore-not-found"]
    helm(cluster, "uninstall", *release, "--wait", "--timeout", f"{INSTALL_SECONDS}s")


def helm(cluster: Cluster | ExternalCluster, *args: str, stdin: str | None = None) -> str:
    """Run helm against the cluster."""
    argv = [str(cluster.helm), f"--kubeconfig={cluster.kubeconfig}", *args]
    return run(argv, stdin=stdin, timeout=INSTALL_SECONDS + 60)


def _namespace(name: str) -> dict[str, Any]:
    """A namespace whose pods may mount folders of their node."""
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def state(cluster: Cluster | ExternalCluster) -> str:
    """What there is to see of the release, for an error's text."""
    try:
        pods = cluster.kubectl("-n", NAMESPACE, "get", "pods", "-o", "wide")
        logs = cluster.kubectl("-n", NAMESPACE, "logs", "--tail=20", "-l", "app.kubernetes.io/name=mlenv")
    except LocalError as error:
        return str(error)
    return f"{pods}{logs}"
