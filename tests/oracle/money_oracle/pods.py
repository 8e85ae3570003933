"""The life of one pod, as kubelets and launchers would tell it: late, twice, out of order, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from money_oracle.trace import SECOND, Attributed, Fact, Mark, Owner, Pod

if TYPE_CHECKING:
    import random

    from money_oracle.fleet import Machine, Pool

MINUTE = 60 * SECOND
DAY = 24 * 60 * MINUTE
STEPS = ("productive", "data_wait", "checkpoint_save", "productive", "eval", "hang", "unknown", "productive")


@dataclass(frozen=True)
class Work:
    """One attempt of one job; of the pods of others, with an empty uid."""

    uid: str
    owner: Owner
    changes: tuple[Attributed, ...]
    pool: Pool
    pods: int
    gpus: int
    length: int
    telemetry: bool
    attempt: int = 1

    @property
    def cpu_milli(self) -> int:
        """What a pod asks of the processors."""
        return self.pool.cpu_milli // 7 if self.pool.gpus == 0 else 1000 * self.gpus


@dataclass(frozen=True)
class Place:
    """A pod that has been given a machine."""

    uid: str
    name: str
    scheduled: int
    machine: Machine


def owner_of(rng: random.Random, number: int, uid: str) -> Owner:
    """Whom a job belongs to."""
    return Owner(
        namespace=f"ns-{number % 7}",
        job=f"train-{number}",
        job_uid=uid,
        team=f"team-{number % 11}",
        model=f"model-{number % 23}",
        use_case=rng.choice(["ads", "feed", "search"]),
        user=f"user-{number % 101}",
        queue=rng.choice(["", "gold", "iron"]),
        labels=(("tier", rng.choice("abc")),) if number % 3 == 0 else (),
    )


def facts_of_pod(rng: random.Random, work: Work, place: Place) -> list[Fact]:
    """The pod and its marks."""
    pod = _pod(rng, work, place)
    marks = _marks(rng, work, pod) if work.uid else []
    return [_mistold(rng, pod), *marks]


def _pod(rng: random.Random, work: Work, place: Place) -> Pod:
    """As it really was, but for what a machine's death cut off."""
    dies = place.machine.dies
    stall = 40 * MINUTE if rng.random() < 0.03 else 90 * SECOND  # an image that cannot be pulled
    startup = min(rng.randrange(stall), work.length // 3)
    started: int | None = place.scheduled + startup
    ends = place.scheduled + work.length
    finished: int | None = ends
    released = ends + rng.choice([0, 0, rng.randrange(MINUTE)]) if work.length else ends
    if dies is not None and released > dies:
        started = started if started is not None and started < dies else None
        finished, released = None, max(dies, place.scheduled)
    node = place.machine.node
    return Pod(
        uid=place.uid,
        namespace=work.owner.namespace,
        name=place.name,
        job_uid=work.uid,
        node_uid=node.uid,
        gpus=work.gpus,
        cpu_milli=work.cpu_milli,
        memory_bytes=work.pool.memory_bytes // rng.choice([3, 5, 16]),
        scheduled=place.scheduled,
        started=started,
        finished=finished,
        released=released,
        telemetry=work.telemetry,
    )


def _mistold(rng: random.Random, pod: Pod) -> Pod:
    """In one of ten something is missing or in the wrong order."""
    if rng.random() > 0.1:
        return pod
    wrong: list[dict[str, int | None]] = [
        {"started": None},
        {"finished": None},
        {"released": None},
        {"started": None, "finished": None},
        {"scheduled": pod.scheduled - DAY},
        {"scheduled": pod.scheduled - DAY, "started": None, "finished": None},
        {"finished": pod.scheduled - 5 * SECOND},
        {"started": pod.scheduled - MINUTE},
        {"started": pod.released, "finished": pod.started},
        {"released": pod.scheduled - SECOND},
    ]
    return replace(pod, **rng.choice(wrong))  # type: ignore[arg-type]


def _marks(rng: random.Random, work: Work, pod: Pod) -> list[Fact]:
    """What the launcher said; its clock may step back, or be off by minutes."""
    begin = pod.started
    end = pod.finished if pod.finished is not None else pod.released
    if begin is None or end is None or end <= begin or rng.random() < 0.1:
        return []
    skew = rng.choice([0, 0, 0, 0, rng.randint(-5, 5) * MINUTE])
    at, attempt, found = begin + skew, work.attempt, []
    told = ["init", *(["checkpoint_restore", "lost_work"] if work.attempt > 1 else [])]
    told += [rng.choice(STEPS) for _ in range(rng.randrange(5))]
    for sequence, category in enumerate(told):
        found.append(Mark(pod.uid, at, sequence, attempt, category))
        at += rng.randrange(1, max(2, (end - begin) // 4))
        if rng.random() < 0.05:  # the ranks start again in the same pod
            found.append(Mark(pod.uid, at, sequence + 100, attempt, "recovery"))
            attempt += 1
            at += rng.randrange(10 * SECOND)
        if rng.random() < 0.03:
            at -= rng.randrange(MINUTE)
    return list(found)
