"""``./run demo``: a real Kubernetes, the platform on it, a recommender trained on two nodes, a pod killed."""

from __future__ import annotations

import fcntl
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from mlenv_api.names import pod_name
from mlenv_api.trainingjob import Phase
from mlenv_local.binaries import cache_folder
from mlenv_local.cluster import Cluster
from mlenv_local.errors import LocalError
from mlenv_local.platform import install
from mlenv_local.progress import Reporter
from mlenv_sdk import Client, MlenvError, NotFound, TrainingJob
from mlenv_sdk.manifests import load
from mlenv_sdk.view.describe import ending
from mlenv_sdk.view.live import follow
from tasks import machine
from tasks.process import ROOT, TaskError, say
from tasks.process import run as execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLE = ROOT / "examples" / "movielens_ranker"
MANIFEST = EXAMPLE / "job.yaml"
CLUSTER = "mlenv"
KEPT = "kept"
"""Marks a cluster that the user wants to have: a later demo leaves it, a crashed one is taken down."""


def run(*, keep: bool) -> int:
    """Runs the demonstration; 0 when the job completes, 1 when it fails."""
    if lack := machine.lack():
        raise TaskError(f"The demo starts a real Kubernetes on this machine, and cannot: {lack}.")
    cluster = Cluster(CLUSTER, reporter=Reporter())
    with _alone(), _sentences(), _cluster(cluster, keep=keep):
        job = _train(cluster)
        if not job.complete:
            _explain(cluster, job)
            return 1
        _result(cluster, job)
        return 0


def _train(cluster: Cluster) -> TrainingJob:
    """Installs the platform, applies the example's manifest, and follows the job to its end."""
    data = _data()
    install(cluster, ROOT, mounts={"/data": data, "/examples": EXAMPLE.parent})
    name = str(load(str(MANIFEST))["metadata"]["name"])
    with Client(cluster.kubeconfig) as client:
        _clear(client, name)
        _kubectl(cluster, "apply", "-f", str(MANIFEST.relative_to(ROOT)))
        return follow(client, name, Console(highlight=False), each=Kill(cluster))


class Kill:
    """Kills a pod once, when the job is half-way and has a checkpoint."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._done = False

    def __call__(self, job: TrainingJob) -> None:
        """Look at the job; kill if it is time."""
        if not self._done and _half_way(job):
            self._done = True
            pod = pod_name(job.metadata.name, 1, 0)
            say("Half-way. What if a pod is lost now?")
            _kubectl(self._cluster, "delete", "pod", pod, "--now", "--wait=false", quiet=True)


def _half_way(job: TrainingJob) -> bool:
    status = job.status
    if status.progress is None or status.checkpoint is None or status.phase is not Phase.RUNNING:
        return False
    sealed = status.checkpoint.sealed is not None
    return sealed and 2 * status.progress.step >= (status.progress.total_steps or math.inf)


def _data() -> Path:
    """The example's data, downloaded once into the user's cache."""
    folder = cache_folder() / "data" / "ml-100k"
    ended = execute(("python", str(EXAMPLE / "prepare.py"), str(folder)))
    if ended.code:
        raise TaskError("The example's data could not be prepared: see the message above.")
    return folder


def _clear(client: Client, name: str) -> None:
    """A job of an earlier demo makes room for this one."""
    try:
        client.delete(name)
        client.wait_deleted(name, timeout=120)
    except NotFound:
        return


def _result(cluster: Cluster, job: TrainingJob) -> None:
    say(f"\n{ending(job)}\n{_recovery(job)}")
    progress = job.status.progress
    values = {metric.name: float(metric.value) for metric in progress.metrics} if progress else {}
    if {"auc", "baseline_auc"} <= values.keys():
        gain = values["auc"] - values["baseline_auc"]
        say(
            f"AUC {values['auc']:.4f} on held-out data; the baseline of two averages has "
            f"{values['baseline_auc']:.4f} ({gain:+.4f})."
        )
    say()
    _kubectl(cluster, "get", "tj")


def _recovery(job: TrainingJob) -> str:
    """What the loss of the pod cost."""
    attempt = job.status.attempt
    if attempt is None or attempt.origin is None or attempt.number == 1:
        return "No pod was killed: no checkpoint was there when half of the steps were done."
    origin = attempt.origin.checkpoint
    before = next(one for one in job.status.attempts if one.number == attempt.number - 1)
    where = f"step {origin.step}" if origin else "nothing"
    return (
        f"Attempt {before.number} was last heard of at step {before.last_step}, and ended ({before.reason}); "
        f"attempt {attempt.number} went on from {where}: {before.lost_steps} of these steps were done again."
    )


def _explain(cluster: Cluster, job: TrainingJob) -> None:
    """What a person would look at next, done for them."""
    say(f"\n{ending(job)}\n")
    _kubectl(cluster, "describe", "tj", job.metadata.name)
    _kubectl(cluster, "logs", "--tail=40", "--prefix", "-l", f"mlenv.io/job-name={job.metadata.name}")


def _kubectl(cluster: Cluster, *words: str, quiet: bool = False) -> None:
    """Runs kubectl as the user would, and shows the command; with `quiet` not what it prints."""
    say(f"$ kubectl {' '.join(words)}")
    ended = execute(("kubectl", f"--kubeconfig={cluster.kubeconfig}", *words), quiet=quiet)
    if ended.code:
        said = ended.output.strip() or "see its message above"
        raise TaskError(f"kubectl {words[0]} ended with code {ended.code}: {said}.")


@contextmanager
def _cluster(cluster: Cluster, *, keep: bool) -> Iterator[None]:
    """The cluster, taken down at the end unless it is to be kept, or was kept before.

    One that fails is left as it is, because the error names its logs; the next demo goes on from there.
    """
    broken = False
    try:
        cluster.up()
        if keep:
            _mark(cluster).touch()
        yield
    except LocalError:
        broken = True
        raise
    finally:
        _leave(cluster, broken=broken)


def _leave(cluster: Cluster, *, broken: bool) -> None:
    if cluster.exists() and _mark(cluster).exists():
        say(_next_steps(cluster))
    elif broken:
        say("What was started is left for you to look at. Remove it: .venv/bin/mlenv local down")
    else:
        cluster.down()
        say("The cluster is gone again. Keep it, and look around: ./run demo --keep")


def _mark(cluster: Cluster) -> Path:
    return cluster.layout.root / KEPT


def _next_steps(cluster: Cluster) -> str:
    return f"""
The cluster is still up. What to type next:

  export KUBECONFIG={cluster.kubeconfig}
  export PATH="{ROOT}/.venv/bin:$PATH"    # kubectl and mlenv
  kubectl get tj
  kubectl describe tj
  mlenv logs {load(str(MANIFEST))["metadata"]["name"]} --tail 20
  mlenv local status
  mlenv local down                        # when you have seen enough
"""


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the parts below, as errors of this task."""
    try:
        yield
    except (LocalError, MlenvError) as error:
        raise TaskError(str(error)) from error


@contextmanager
def _alone() -> Iterator[None]:
    """One demo at a time: they share the cluster and the job's name."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / "demo.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TaskError("Another ./run demo runs already on this machine.") from None
        yield
