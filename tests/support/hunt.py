"""Kills what belongs to jobs of a real cluster, at moments drawn from a seed, and judges what came of it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import kills
from diary import Diary

from mlenv_api import names
from mlenv_api.conditions import Reason
from mlenv_local import platform
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from history import History
    from live import Job, Namespace, Raw

    from mlenv_api.trainingjob import AttemptRecord

PROGRAM: Final = Path(__file__).parent / "programs" / "diary.py"
INSIDE: Final = "/hunt"
PATIENCE: Final = 600.0
LEASE: Final = f"/apis/coordination.k8s.io/v1/namespaces/{platform.NAMESPACE}/leases/{names.LEASE_NAME}"
SYSTEM_PODS: Final = f"/api/v1/namespaces/{platform.NAMESPACE}/pods"
VICTIMS: Final = {"rank 0": 24, "another rank": 20, "container": 16, "pod": 16, "store": 12, "operator": 12}
"""What is killed, and how often of a hundred times."""
ENDS: Final = frozenset({"rank 0", "another rank", "container", "pod"})
"""Kills that surely end an attempt."""
CHARGED: Final = frozenset({"rank 0", "another rank", "container"})
"""Kills that look like the program's own fault: nobody but the killer knows better."""
IDLE: Final = 2
"""After so many kills in a row without a checkpoint in between the next one waits for one."""
FAILOVER: Final = 30.0
"""Seconds after its leader was killed in which the operator may still be without one."""
SOON: Final = 0.3
"""The part of the kills that come right after the one before: into the restart that it caused."""


@dataclass(frozen=True)
class Kill:
    """One SIGKILL, or one for each process of a pod."""

    victim: str
    job: str
    index: int
    attempt: int
    """As the status said."""
    time: float


@dataclass
class Ground:
    """Where it happens."""

    ns: Namespace
    folder: Path
    """Of this machine; pods see it as INSIDE."""
    history: History
    one_leader: threading.Lock = field(default_factory=threading.Lock)
    dead: set[str] = field(default_factory=set)
    """Leaders that were killed."""

    def __post_init__(self) -> None:
        self.folder.chmod(0o777)
        shutil.copy(PROGRAM, self.folder / "diary.py")
        (self.folder / "diary.py").chmod(0o644)

    def submit(  # noqa: PLR0917
        self,
        name: str,
        nodes: int,
        procs: int,
        steps: int,
        spool: str | None = None,
        more: Raw | None = None,
        **env: str,
    ) -> Job:
        """A job that keeps a diary in a folder of its name; `more` of its spec may be said."""
        (self.folder / name).mkdir()
        (self.folder / name).chmod(0o777)
        shared = {"name": "hunt", "hostPath": {"path": str(self.folder), "type": "Directory"}}
        kept = {"spool": {"volumeClaimName": spool}} if spool else {}
        command = ["python", f"{INSIDE}/diary.py", f"{INSIDE}/{name}", str(steps)]
        # Without a request the pods would get next to nothing of cores that others want as well.
        need = {"requests": {"cpu": "250m", "memory": "256Mi"}}
        pod = {"volumes": [shared], "volumeMounts": [{"name": "hunt", "mountPath": INSIDE}]}
        return self.ns.submit(
            name,
            launcher="MLEnv",
            trainer={
                "command": command,
                "numNodes": nodes,
                "numProcPerNode": procs,
                "resourcesPerNode": need,
                "env": [{"name": key, "value": value} for key, value in env.items()],
            },
            checkpoint={"intervalSteps": 20, **kept},
            podTemplateOverrides={"spec": pod},
            **(more or {}),
        )

    def diary(self, job: Job) -> Diary:
        """What its ranks have written."""
        return Diary.read(self.folder / job.name)

    def leader(self) -> tuple[str, int]:
        """Who holds the Lease, and how often it went to somebody else."""
        spec = self.ns.api.get(LEASE)["spec"]
        return str(spec.get("holderIdentity") or ""), int(spec.get("leaseTransitions") or 0)

    def kill_leader(self) -> None:
        """And let its pod be replaced: a kubelet starts a container that ends often ever more slowly."""
        with self.one_leader:
            holder = self.living_leader()
            pod = self.ns.api.get(f"{SYSTEM_PODS}/{holder.partition('_')[0]}")["metadata"]
            process = kills.main_of(kills.of_pod(pod["uid"]))
            assert process is not None, f"{holder} leads, and has no process"
            assert process.kill()
            self.dead.add(holder)
            self.ns.api.delete(f"{SYSTEM_PODS}/{pod['name']}")

    def living_leader(self) -> str:
        """Who holds the Lease, once it is somebody who was not killed."""
        found = wait_until(lambda: self.leader()[0] not in ("", *self.dead), seconds=PATIENCE)
        assert found, "nobody leads"
        return self.leader()[0]


@dataclass
class Hunter:
    """Kills what belongs to one job after another; a lane of its own, with its own chance."""

    ground: Ground
    chance: random.Random
    kills: list[Kill] = field(default_factory=list)
    say: Callable[[str], None] = print
    _budgets: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By job: how often it was struck since it got on, and the attempt that last surely ended."""

    def hunt(self, job: Job, most: int) -> list[Kill]:
        """Kill so often, or until the job ends."""
        mine: list[Kill] = []
        idle, ended = self._budgets.get(job.name, (0, 0))
        while len(mine) < most:
            victim = self.chance.choices(list(VICTIMS), list(VICTIMS.values()))[0]
            index = self.chance.randrange(8)
            gap = self.chance.uniform(0, 1.5) if self.chance.random() < SOON else self.chance.uniform(1, 6)
            if victim == "store" and job.now()["spec"]["trainer"]["numNodes"] == 1:
                victim = "rank 0"  # which hosts the store itself
            if idle >= IDLE:
                if not self._got_on(job, ended):
                    break
                idle = 0
            if job.namespace.jobs.wait(lambda jobs: _over(jobs.get(job.name)), gap):
                break
            kill = self._strike(job, victim, index)
            if kill is None:
                break
            mine.append(kill)
            self.kills.append(kill)
            self.say(f"  {job.name}, attempt {kill.attempt}: {victim} (slot {kill.index})")
            idle += victim != "operator"
            ended = kill.attempt if victim in ENDS else ended
            self._budgets[job.name] = idle, ended
        return mine

    def _got_on(self, job: Job, attempt: int) -> bool:
        """Wait until an attempt after this one has sealed a checkpoint, which refills the budget.

        False: the job ended.
        """

        def holds(status: Raw) -> bool:
            now, sealed = status["attempt"], (status.get("checkpoint") or {}).get("sealed")
            newer = now["number"] > attempt and sealed is not None and sealed["attempt"] == now["number"]
            return newer or _ended(status)

        return not _ended(job.until(holds, f"checkpoint after attempt {attempt}", PATIENCE))

    def _strike(self, job: Job, victim: str, index: int) -> Kill | None:
        """Kill as soon as there is such a victim; None: the job ended before there was."""
        if victim == "operator":
            kill = Kill(victim, job.name, 0, _number(job), time.time())
            self.ground.kill_leader()
            return kill
        found: list[Kill] = []

        def strike() -> bool:
            found.extend(self._try(job, victim, index))
            return bool(found) or _ended(job.status())

        assert wait_until(strike, seconds=PATIENCE, interval=0.05), f"no {victim}\n{job.describe()}"
        return found[0] if found else None

    def _try(self, job: Job, victim: str, index: int) -> Iterator[Kill]:
        pods = [one for one in job.pods() if "deletionTimestamp" not in one["metadata"]]
        if victim in ("rank 0", "store"):
            pods = [one for one in pods if _slot(one) == 0]
        if not pods:
            return
        pod = pods[index % len(pods)]
        number, now, found = _number(job), time.time(), kills.of_pod(pod["metadata"]["uid"])
        if _kill(self.ground.ns, victim, pod, found):
            yield Kill(victim, job.name, _slot(pod), number, now)


def _kill(ns: Namespace, victim: str, pod: Raw, found: list[kills.Process]) -> bool:
    """Whether it was there."""
    first, trains = kills.launcher(found), sorted(kills.ranks(found), key=lambda one: one.own)
    if victim == "pod":
        if first is None:
            return False
        path = f"/api/v1/namespaces/{ns.name}/pods/{pod['metadata']['name']}"
        ns.api.call("DELETE", path, {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})
        return sum(one.kill() for one in found) > 0
    one = {
        "rank 0": trains[0] if trains else None,
        "another rank": trains[-1] if trains else None,
        "container": first,
        "store": kills.store(found),
    }[victim]
    return one is not None and one.kill()


def unexplained(job: str, records: list[AttemptRecord], mine: list[Kill]) -> list[str]:
    """Attempts that ended although nobody was killed, or were charged although they should not be."""
    found, begin = [], 0.0
    for record in records:
        end = (record.end_time + timedelta(seconds=1)).timestamp()
        struck = [one for one in mine if begin - 2 <= one.time <= end]
        begin = record.end_time.timestamp()
        if record.reason in (Reason.COMPLETED, Reason.SUSPENDED):
            continue
        victims = {one.victim for one in struck}
        said = f"{job}, attempt {record.number} ended ({record.reason}, counted {record.counted}): "
        said += f"{record.message} Killed then: {sorted(victims) or 'nobody'}"
        if not victims & {*ENDS, "store"}:
            found.append(said)
        elif record.counted and not victims & CHARGED:
            found.append(f"charged wrongly: {said}")
        elif not record.counted and victims <= {*CHARGED, "operator"}:
            found.append(f"not charged: {said}")
    return found


def report(seed: int, mine: list[Kill], diaries: dict[str, Diary], words: str) -> str:
    """One line for people."""
    count = Counter(one.victim for one in mine)
    said = ", ".join(f"{count[victim]} {victim}" for victim in VICTIMS if count[victim])
    redone = sum(diary.redone() for diary in diaries.values())
    place, replaced = _recoveries(mine, diaries)
    return (
        f"{len(mine)} kills (seed {seed}): {said}; {len(diaries)} jobs, {words}; {redone} steps redone; "
        f"recovery p50/p95 in place {_quantiles(place)}, in a new pod {_quantiles(replaced)}"
    )


def _recoveries(mine: list[Kill], diaries: dict[str, Diary]) -> tuple[list[float], list[float]]:
    """Seconds to the next committed step, of kills that had that time for themselves."""
    place: list[float] = []
    replaced: list[float] = []
    for job, diary in diaries.items():
        own = [one for one in mine if one.job == job and one.victim in ENDS]
        others = [one.time for one in mine if one.job == job]
        leaders = [one.time for one in mine if one.victim == "operator"]
        for one in own:
            back = diary.back_at(one.time)
            if back is None or any(one.time < other < back for other in others):
                continue
            if any(one.time - FAILOVER < other < back for other in leaders):
                continue
            (replaced if one.victim in ("container", "pod") else place).append(back - one.time)
    return place, replaced


def _quantiles(values: list[float]) -> str:
    if not values:
        return "-"
    ordered = sorted(values)
    last = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"{ordered[len(ordered) // 2]:.1f}/{last:.1f} s (of {len(ordered)})"


def _number(job: Job) -> int:
    return int((job.status().get("attempt") or {}).get("number") or 0)


def _slot(pod: Raw) -> int:
    return int(pod["metadata"]["annotations"][names.ANNOTATION_INDEX])


def _ended(status: Raw) -> bool:
    return status.get("phase") in ("Complete", "Failed")


def _over(job: Raw | None) -> bool:
    """One that is not known yet has just been made."""
    return job is not None and _ended(job.get("status") or {})


def wire(mine: list[Kill]) -> str:
    """All kills, to be read when something went wrong."""
    return "\n".join(json.dumps(vars(one)) for one in mine)
