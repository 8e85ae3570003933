"""The program as a TrainingJob on a local cluster, and what is killed of it."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final, Self, TypeVar

from mlenv_api import names
from mlenv_sdk.errors import NotFound
from mlenv_sdk.transport import Transport
from standstill import processes
from standstill.events import Tail, recovered, started_after, steady
from standstill.figures import IN_PLACE, Outcome
from standstill.watch import Raw, Seen, Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from mlenv_local import Cluster
    from standstill.events import Event, Recovered

T = TypeVar("T")
NAMESPACE: Final = "bench-recovery"
INSIDE: Final = "/bench"
RANKS: Final = 2
PATIENCE: Final = 180.0
STEADY_STEPS: Final = 200
FREE_KILLS: Final = 2
"""After more short attempts in a row the operator waits before the next (`quick_attempts_free`)."""


@dataclass(frozen=True)
class Place:
    """Where jobs run, and what is seen there."""

    transport: Transport
    jobs: Watch
    pods: Watch
    folder: Path
    """Of this machine; the pods see it as INSIDE."""

    def path(self, kind: str, name: str = "", more: str = "") -> str:
        """Of a collection or an object of the API server."""
        group = "/api/v1" if kind == "pods" else f"/apis/{names.API_VERSION}"
        return f"{group}/namespaces/{NAMESPACE}/{kind}" + (f"/{name}" if name else "") + more


def place(cluster: Cluster, folder: Path) -> Place:
    """Begin to watch."""
    transport = Transport(cluster.kubeconfig)
    jobs = f"/apis/{names.API_VERSION}/namespaces/{NAMESPACE}/{names.TRAINING_JOBS}"
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    return Place(transport, Watch(transport, jobs), Watch(transport, pods), folder)


def manifest(name: str, folder: Path, env: Mapping[str, str]) -> Raw:
    """A pod on each of two nodes, one rank each."""
    term = {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"gang": name}}}
    apart = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    variables = {**env, "BENCH_EVENTS": f"{INSIDE}/{name}.jsonl"}
    shared = {"name": "bench", "hostPath": {"path": str(folder), "type": "Directory"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "environmentRef": {"name": "local"},
            "trainer": {
                "command": ["python", f"{INSIDE}/program.py"],
                "numNodes": RANKS,
                "env": [{"name": key, "value": value} for key, value in variables.items()],
                # Without a request the pods would get next to nothing of cores that others want as well.
                "resourcesPerNode": {"requests": {"cpu": "500m", "memory": "512Mi"}},
            },
            "failurePolicy": {"maxRestarts": 2 * FREE_KILLS},
            "podTemplateOverrides": {
                "metadata": {"labels": {"gang": name}},
                "spec": {
                    "affinity": apart,
                    "volumes": [shared],
                    "volumeMounts": [{"name": "bench", "mountPath": INSIDE}],
                },
            },
        },
    }


class Job:
    """One job, from its creation until nothing is left of it."""

    def __init__(self, where: Place, name: str, env: Mapping[str, str]) -> None:
        self.where, self.name = where, name
        self.tail = Tail(where.folder / f"{name}.jsonl")
        self.restarted = 0.0
        body = manifest(name, where.folder, env)
        where.transport.call("POST", where.path(names.TRAINING_JOBS), what=name, body=body)

    def close(self) -> None:
        """Delete it and see its pods go, so that their end disturbs nobody."""
        path = self.where.path(names.TRAINING_JOBS, self.name)
        self.where.transport.call("DELETE", path, what=self.name)
        for pod in {one.name for one in self._pods()}:
            self.where.pods.wait(partial(_deleted, pod), f"the end of {pod}", PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def kill(self, kind: str, rank: int, rest: float) -> Outcome:
        """Kill once it has trained steadily for `rest` seconds more; wait until it does so again."""
        ranks = self._steady()
        time.sleep(rest)
        pod, number = self._pod(rank), self._number()
        container = _container(pod)
        found = processes.of_container(container)
        if kind == IN_PLACE:
            found = {processes.outer_number(found, ranks[rank].pid): 0}
        load, killed = os.getloadavg()[0], time.time()
        processes.kill(found)
        back = self._recovered(killed)
        self.restarted = killed
        moments = {**back.moments, **self._moves(number, killed, back.stepped)}
        moments |= self._of_pod(kind, pod, rank, killed)
        if kind != IN_PLACE:
            moments["launched"] = back.launchers[rank]
        return Outcome(kind, rank, killed, moments, back.false_starts, load, self._notes(killed))

    # -- waiting

    def _steady(self) -> dict[int, Event]:
        return poll(lambda: steady(self.tail.look(), self.restarted, RANKS, STEADY_STEPS), "steady training")

    def _recovered(self, killed: float) -> Recovered:
        what = f"a step after the kill; started since: {list(started_after(self.tail.look(), killed))}"
        return poll(lambda: recovered(self.tail.look(), killed, RANKS), what)

    # -- what was seen

    def _pods(self, since: float = 0.0) -> list[Seen]:
        mine = self.where.pods.since(since)
        return [one for one in mine if one.object["metadata"]["labels"].get(names.LABEL_JOB) == self.name]

    def _pod(self, rank: int) -> Seen:
        return [one for one in self._pods() if _index(one) == rank][-1]

    def _jobs(self, since: float = 0.0) -> list[Seen]:
        return [one for one in self.where.jobs.since(since) if one.name == self.name]

    def _number(self) -> int:
        return int(self._jobs()[-1].status["attempt"]["number"])

    def _moves(self, number: int, killed: float, stepped: float) -> dict[str, float]:
        """When the next attempt was stored, and when its world was; the last one, should there be several."""
        later = [one for one in self._jobs(killed) if _attempt(one)[0] > number and one.time < stepped]
        formed = [one for one in later if _attempt(one)[1] == "Running"]
        last = max(_attempt(one)[0] for one in formed)
        return {
            "decided": later[0].time,
            "formed": next(one.time for one in formed if _attempt(one)[0] == last),
        }

    def _of_pod(self, kind: str, pod: Seen, rank: int, killed: float) -> dict[str, float]:
        if kind == IN_PLACE:
            lines = self.log(pod.name)
            return {"detected": next(at for at, text in lines if at > killed and _is_verdict(text))}
        seen = self._pods(killed)
        ended = next(one.time for one in seen if one.uid == pod.uid and _over(one))
        fresh = [one for one in seen if one.uid != pod.uid and _index(one) == rank]
        return {"ended": ended, "created": fresh[0].time}

    def _notes(self, killed: float) -> dict[str, float]:
        """What the launchers say, by pod and sentence, in seconds after the kill."""
        pods = {one.name for one in self._pods() if one.type != "DELETED"}
        said = {f"{pod}: {text}": at - killed for pod in pods for at, text in self.log(pod) if at > killed}
        return {text: after for text, after in said.items() if "[mlenv]" in text}

    def log(self, pod: str) -> list[tuple[float, str]]:
        """What a pod has printed, and when the container runtime read it; nothing of one that is gone."""
        query = {"timestamps": "true"}
        path = self.where.path("pods", pod, "/log")
        try:
            found = self.where.transport.lines(path, what=pod, query=query, read_seconds=30)
            return list(stamped(found))
        except NotFound:
            return []


class GaveUpError(SystemExit):
    """What was waited for did not come."""


def poll(look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Look until there is something; gives up with a sentence."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise GaveUpError(f"gave up waiting for {what}")
        time.sleep(0.05)
    return found


def stamped(lines: Iterator[str]) -> Iterator[tuple[float, str]]:
    """Lines of a log that was asked for with timestamps: when, and what."""
    for line in lines:
        stamp, _, text = line.partition(" ")
        yield datetime.fromisoformat(stamp[:26]).replace(tzinfo=UTC).timestamp(), text


def _is_verdict(text: str) -> bool:
    return re.search(r"\[mlenv\] attempt \d+: rank \d+ failed with", text) is not None


def _attempt(job: Seen) -> tuple[int, str]:
    attempt = job.status.get("attempt") or {}
    return int(attempt.get("number", 0)), str(attempt.get("state", ""))


def _index(pod: Seen) -> int:
    return int(pod.object["metadata"]["annotations"][names.ANNOTATION_INDEX])


def _over(pod: Seen) -> bool:
    return pod.type == "DELETED" or pod.status.get("phase") in ("Succeeded", "Failed")


def _deleted(pod: str, seen: list[Seen]) -> bool:
    return [one.type for one in seen if one.name == pod][-1] == "DELETED"


def _container(pod: Seen) -> str:
    states = pod.status["containerStatuses"]
    full = next(one["containerID"] for one in states if one["name"] == names.TRAINER_CONTAINER)
    return str(full).rpartition("/")[2]
