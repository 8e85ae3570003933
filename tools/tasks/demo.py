"""``./run demo``: a recommender on two nodes of a real Kubernetes, lost half-way, resumed, and billed."""

from __future__ import annotations

import fcntl
import math
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from mlenv_api.names import LABEL_JOB
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
from tasks import demo_money, demo_wandb, machine
from tasks.process import ROOT, TaskError, say
from tasks.process import run as execute

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from mlenv_api.tracking import UploadedRef
    from tasks.demo_wandb import Tracking

EXAMPLE = ROOT / "examples" / "movielens_ranker"
MANIFEST = EXAMPLE / "job.yaml"
CLUSTER = "mlenv"
NAMESPACE = "default"
BROUGHT = "was brought from"
"""In the log of a pod whose checkpoint came out of the store."""
WORTH_LOSING = 50
"""A fiftieth of all steps."""
KEPT = "kept"
"""Marks a cluster that the user wants to have: a later demo leaves it, a crashed one is taken down."""


def run(*, keep: bool, name: str = CLUSTER) -> int:
    """Runs the demonstration; 0 when the job completes, 1 when it fails."""
    if lack := machine.lack():
        raise TaskError(f"The demo starts a real Kubernetes on this machine, and cannot: {lack}.")
    theirs = demo_wandb.theirs(os.environ)
    cluster = Cluster(name, reporter=Reporter())
    with _alone(name), _sentences(), _cluster(cluster, keep=keep):
        tracking = theirs or demo_wandb.ours(cluster)
        _install(cluster, tracking)
        job, loss = _train(cluster, tracking)
        if not job.complete:
            _explain(cluster, job)
            return 1
        _result(cluster, job, loss)
        _bill(cluster, job)
        return 0


def _install(cluster: Cluster, tracking: Tracking) -> None:
    """The platform, with a ledger, and with an environment that has jobs tracked."""
    data = _data()
    demo_money.pretend(cluster)
    install(
        cluster,
        ROOT,
        mounts={"/data": data, "/examples": EXAMPLE.parent},
        values=demo_money.ledger(cluster),
        environment=tracking.environment(),
    )
    cluster.kubectl.apply(tracking.secret(NAMESPACE), *demo_money.account(NAMESPACE))


def _train(cluster: Cluster, tracking: Tracking) -> tuple[TrainingJob, Loss]:
    """Applies the example's manifest, and follows the job to its end."""
    name = _job_name()
    say(f"Metrics and checkpoints go to {tracking.page}")
    with Client(cluster.kubeconfig) as client:
        _clear(client, name)
        _kubectl(cluster, "apply", "-f", str(MANIFEST.relative_to(ROOT)))
        loss = Loss(cluster)
        return follow(client, name, Console(highlight=False), each=loss), loss


class Loss:
    """Kills all pods once, when the job is half-way and the store has a checkpoint; knows what that had."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._done = False
        self.stored: dict[str, UploadedRef] = {}
        """By digest."""

    def __call__(self, job: TrainingJob) -> None:
        """Look at the job; have it lose its pods if it is time."""
        known = job.status.checkpoint.uploaded if job.status.checkpoint else None
        if known is not None:
            self.stored[known.digest] = known
            if not self._done and _time_to_lose(job):
                self._done = True
                self._lose(job.metadata.name)

    def _lose(self, name: str) -> None:
        say("Half-way. What if all of its pods die now, at once, and their checkpoints with them?")
        mine = f"{LABEL_JOB}={name}"
        for pod in self._cluster.kubectl.get("pods", f"--namespace={NAMESPACE}", "-l", mine)["items"]:
            self._cluster.kill_pod(pod["metadata"]["uid"])
        _kubectl(self._cluster, "delete", "pods", "-l", mine, "--now", "--wait=false", quiet=True)


def _time_to_lose(job: TrainingJob) -> bool:
    """Half-way, and some steps behind the last checkpoint: these will have to be made again."""
    progress, known = job.status.progress, job.status.checkpoint
    if progress is None or job.status.phase is not Phase.RUNNING or known is None or known.sealed is None:
        return False
    total = progress.total_steps or math.inf
    return 2 * progress.step >= total and progress.step - known.sealed.step >= total / WORTH_LOSING


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


def _result(cluster: Cluster, job: TrainingJob, loss: Loss) -> None:
    say("\n".join(["", ending(job), _recovery(job), *_origin(cluster, job, loss)]))
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
    """What the loss of the pods cost."""
    attempt = job.status.attempt
    if attempt is None or attempt.origin is None or attempt.number == 1:
        return "No pod was killed: the store had no checkpoint yet when half of the steps were done."
    origin = attempt.origin.checkpoint
    before = next(one for one in job.status.attempts if one.number == attempt.number - 1)
    where = f"step {origin.step}" if origin else "nothing"
    return (
        f"Attempt {before.number} was last heard of at step {before.last_step}, and ended ({before.reason}); "
        f"attempt {attempt.number} went on from {where}: {before.lost_steps} of these steps were done again."
    )


def _origin(cluster: Cluster, job: TrainingJob, loss: Loss) -> list[str]:
    """Where the checkpoint came from that the last attempt went on from, in the words of its log."""
    attempt = job.status.attempt
    origin = attempt.origin.checkpoint if attempt and attempt.origin else None
    found = loss.stored.get(origin.digest) if origin else None
    told = _brought(cluster, job)
    if found is None or not told:
        return []
    return [f"Nothing was left in the pods. The log of the new pod 0: {told}", f"The run: {found.url}"]


def _brought(cluster: Cluster, job: TrainingJob) -> str:
    """What a pod of the last attempt said of where its checkpoint came from; empty if it lay there."""
    name = job.metadata.name
    found = cluster.kubectl("logs", f"--selector={LABEL_JOB}={name}", "--container=trainer", "--tail=-1")
    return next((line for line in found.splitlines() if BROUGHT in line), "")


def _bill(cluster: Cluster, job: TrainingJob) -> None:
    """What it cost, once its pods have ended and are charged."""
    name = job.metadata.name
    with cluster.reporter.step("Last checkpoint in the store, and the last pod charged"):
        if not demo_money.settled(cluster, NAMESPACE, name):
            raise LocalError(f"The pods of {name} were not charged within {demo_money.ENDS_SECONDS} s.")
    _shown(cluster, "mlenv", "cost", name)
    say(demo_money.terms())


def _explain(cluster: Cluster, job: TrainingJob) -> None:
    """What a person would look at next, done for them."""
    say(f"\n{ending(job)}\n")
    _kubectl(cluster, "describe", "tj", job.metadata.name)
    _kubectl(cluster, "logs", "--tail=40", "--prefix", "-l", f"mlenv.io/job-name={job.metadata.name}")


def _kubectl(cluster: Cluster, *words: str, quiet: bool = False) -> None:
    """Runs kubectl as the user would."""
    _shown(cluster, "kubectl", *words, quiet=quiet)


def _shown(cluster: Cluster, program: str, *words: str, quiet: bool = False) -> None:
    """Runs a command as the user would, and shows it; with `quiet` not what it prints."""
    say(f"$ {program} {' '.join(words)}")
    ended = execute((program, f"--kubeconfig={cluster.kubeconfig}", *words), quiet=quiet)
    if ended.code:
        said = ended.output.strip() or "see its message above"
        raise TaskError(f"{program} {words[0]} ended with code {ended.code}: {said}.")


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
    """The W&B server goes and stays with the cluster."""
    if cluster.exists() and _mark(cluster).exists():
        say(_next_steps(cluster))
    elif broken:
        down = f".venv/bin/mlenv local down{_named(cluster)}"
        say(f"What was started is left for you to look at. Remove it: {down}")
    else:
        cluster.down()
        say("The cluster is gone again, and what was on it. Keep it, and look around: ./run demo --keep")


def _mark(cluster: Cluster) -> Path:
    return cluster.layout.root / KEPT


def _named(cluster: Cluster) -> str:
    """The option that names a cluster which is not the usual one."""
    return "" if cluster.name == CLUSTER else f" --name {cluster.name}"


def _next_steps(cluster: Cluster) -> str:
    page, sign_in = demo_wandb.kept(cluster)
    shown = f"\n  {sign_in}    # signs you in at {page}" if page else ""
    return f"""
The cluster is still up. What to type next:

  export KUBECONFIG={cluster.kubeconfig}
  export PATH="{ROOT}/.venv/bin:$PATH"    # kubectl and mlenv
  kubectl get tj
  kubectl describe tj
  mlenv logs {_job_name()} --tail 20
  mlenv cost explain {_job_name()}{shown}
  mlenv local status{_named(cluster)}
  mlenv local down{_named(cluster)}                        # when you have seen enough
"""


def _job_name() -> str:
    return str(load(str(MANIFEST))["metadata"]["name"])


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors of the parts below, as errors of this task."""
    try:
        yield
    except (LocalError, MlenvError) as error:
        raise TaskError(str(error)) from error


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """One demo at a time on one cluster: they share the job's name."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with (cache_folder() / f"demo-{name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TaskError("Another ./run demo runs already on this machine.") from None
        yield
