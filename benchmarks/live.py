"""Ten thousand jobs held live by one operator: its memory, how late statuses are, and a cold start.

Jobs of `launcher: None` on fake nodes; their pods run until they are told to end. Once all run, so many
things change a second, in turns a spec and a program that fails; the lag is from the change to the status
that speaks of it. Then the operator is killed, a job is edited, and another operator, started cold, has to
take over and to write nothing that nobody needs. The operator is a process beside the cluster.

Jobs without a launcher have a Service each, and what Kubernetes does for a pod that changes grows with the
Services of its namespace: 10,000 in one keep its controllers busy, not the operator (--namespaces 1).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvloop
from crowd import jobs, setup
from crowd.burst import connected, side_by_side
from crowd.scrape import loop_lag_ms, scraped
from crowd.usage import usage
from crowd.watch import watching
from crowd.worlds import Worlds

from mlenv_api import names
from mlenv_local import fakenodes
from mlenv_local.audit import AuditLog
from mlenv_operator.kube.resources import PODS, TRAINING_JOBS

if TYPE_CHECKING:
    from collections.abc import Callable

    from crowd.scrape import Samples

    from mlenv_local import Cluster
    from mlenv_operator.kube.client import Client

FLOORS: Final = {
    "rss_mb": 300.0,
    "status_lag_p99_s": 2.0,
    "takeover_s": 30.0,
    "loop_lag_p99_ms": 250.0,
    "double_worlds": 0.0,
}
CONNECTIONS: Final = 32
SLOWEST: Final = 5
MOST_AWAITED_S: Final = 60.0
EVERYWHERE: Final = ""
Raw = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What the newest status of a job says."""

    observed: int = -1
    attempt: int = 0
    phase: str = ""
    namespace: str = ""


class View:
    """All jobs, as a watch tells of them, and whoever waits for one of them to change."""

    def __init__(self) -> None:
        self.jobs: dict[str, Seen] = {}
        self.phases: Counter[str] = Counter()
        self.worlds = Worlds()
        self._waiting: dict[str, tuple[Callable[[Seen], bool], asyncio.Future[float]]] = {}

    def saw(self, raw: Raw, now: float) -> None:
        """A job changed."""
        name, status = raw["metadata"]["name"], raw.get("status") or {}
        attempt = (status.get("attempt") or {}).get("number", 0)
        namespace = raw["metadata"]["namespace"]
        seen = Seen(status.get("observedGeneration", -1), attempt, status.get("phase", ""), namespace)
        self.worlds.saw(raw)
        self.phases[self.jobs.get(name, Seen()).phase] -= 1
        self.phases[seen.phase] += 1
        self.jobs[name] = seen
        if name in self._waiting and self._waiting[name][0](seen):
            _, future = self._waiting.pop(name)
            if not future.done():
                future.set_result(now)

    async def when(self, name: str, holds: Callable[[Seen], bool]) -> float | None:
        """When it first held of this job, from now on; null when it does not come to that."""
        if holds(self.jobs[name]):
            return time.time()
        future: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[name] = (holds, future)
        try:
            return await asyncio.wait_for(future, MOST_AWAITED_S)
        except TimeoutError:
            return None
        finally:
            self._waiting.pop(name, None)

    def told(self) -> str:
        """How many jobs are in which phase."""
        return ", ".join(f"{count} {phase or 'New'}" for phase, count in self.phases.items() if count > 0)


@dataclass
class Lags:
    """From a change to the status that speaks of it, in seconds."""

    edits: list[float] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    lost: int = 0
    """Changes that no status spoke of within a minute."""
    told: list[tuple[float, str]] = field(default_factory=list)
    """Each with its story: the slowest say who was in the way."""


class Changes:
    """Edits and failures of jobs drawn by lot, each followed until the status shows it."""

    def __init__(self, client: Client, view: View, pods: int) -> None:
        self._client, self._view, self._pods = client, view, pods
        self._busy: set[str] = set()
        self._start = 0.0
        self.lags = Lags()

    async def make(self, per_second: float, seconds: float) -> None:
        """So many a second, for so long."""
        self._start = start = time.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(per_second * seconds)):
                await asyncio.sleep(max(0.0, start + number / per_second - time.time()))
                name = self._any()
                group.create_task(self._one(name, self._edit if number % 2 else self._fail))

    def _any(self) -> str:
        free = [name for name, seen in self._view.jobs.items() if seen.phase == "Running"]
        return random.choice([name for name in free if name not in self._busy])

    async def _one(self, name: str, change: Callable[[str], Any]) -> None:
        self._busy.add(name)
        try:
            await change(name)
        finally:
            self._busy.discard(name)

    async def _edit(self, name: str) -> None:
        began = time.time()
        generation = await edit(self._client, name, self._view.jobs[name].namespace)
        await self._follow(name, began, self.lags.edits, lambda seen: seen.observed >= generation)

    async def _fail(self, name: str) -> None:
        """A program ends with exit code 1, as its kubelet would say; the status then names a new attempt."""
        before, began = self._view.jobs[name].attempt, time.time()
        pod = names.pod_name(name, random.randrange(self._pods), before - 1)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now}}
        container = {"name": names.TRAINER_CONTAINER, "image": "x", "imageID": "x", "ready": False}
        status = {"phase": "Failed", "containerStatuses": [{**container, "restartCount": 0, "state": ended}]}
        home = self._view.jobs[name].namespace
        await self._client.merge_patch(PODS, home, pod, {"status": status}, subresource="status")
        await self._follow(name, began, self.lags.failures, lambda seen: seen.attempt > before)

    async def _follow(
        self, name: str, began: float, times: list[float], holds: Callable[[Seen], bool]
    ) -> None:
        taken = time.time() - began
        at = await self._view.when(name, holds)
        if at is None:
            self.lags.lost += 1
            return
        times.append(at - began)
        when = f"{name}, changed {began - self._start:.1f} s after the first"
        story = f"{when}: taken in {taken:.2f} s, told after {at - began:.2f} s"
        self.lags.told.append((at - began, story))


async def edit(client: Client, name: str, namespace: str) -> int:
    """Change a field that a live job may change; the generation that this made."""
    patch = {"spec": {"ttlSecondsAfterFinished": random.randrange(10**6)}}
    made = await client.merge_patch(TRAINING_JOBS, namespace, name, patch)
    return int(made["metadata"]["generation"])


def homes(count: int) -> list[str]:
    """Namespaces, as many teams have them."""
    return [f"bench-live-{number:03d}" for number in range(count)]


def manifest(name: str, namespace: str, pods: int) -> Raw:
    """A job whose pods never end by themselves, and which may fail often."""
    made = jobs.training_jobs(pods, 1).manifest(name, namespace)
    del made["spec"]["podTemplateOverrides"]["metadata"]["annotations"][fakenodes.ANNOTATION_RUN_FOR]
    made["spec"]["failurePolicy"] = {"maxRestarts": 1000}
    return made


class Bench:
    """One run."""

    def __init__(self, cluster: Cluster, args: argparse.Namespace) -> None:
        self._cluster, self._args = cluster, args
        self._view = View()
        self._log = AuditLog(cluster.audit_log)
        self._operator = setup.start_outside(cluster)

    async def run(self) -> dict[str, Any]:
        """Everything; the figures."""
        async with (
            connected(self._cluster, CONNECTIONS) as kube,
            aiohttp.ClientSession() as session,
            watching(kube, EVERYWHERE, {TRAINING_JOBS: self._view.saw}),
        ):
            filled = await self._fill(kube)
            await self._rest(session)
            held = await self._hold(kube, session)
            started = await self._start_cold(kube, session)
        size = {"jobs": self._args.jobs, "pods": self._args.pods}
        double = self._view.worlds.double(self._log.all_writes())
        return {**size, "fill_s": filled, **held, **started, "double_worlds": double}

    def close(self) -> None:
        """End the operator."""
        self._operator.kill()
        self._operator.wait()

    async def _fill(self, kube: Client) -> float:
        """Submit everything, and wait until all jobs run; seconds."""
        began = time.time()
        numbered = zip(range(self._args.jobs), cycle(homes(self._args.namespaces)), strict=False)
        made = (manifest(jobs.NAME.format(number), home, self._args.pods) for number, home in numbered)
        submitted = asyncio.create_task(
            side_by_side([partial(kube.create, TRAINING_JOBS, m) for m in made], 16)
        )
        said = moved = began
        before = 0
        while (running := self._view.phases["Running"]) < self._args.jobs or not submitted.done():
            await asyncio.sleep(0.2)
            now = time.time()
            if running != before:
                before, moved = running, now
            if now - moved > self._args.patience:
                raise SystemExit(f"nothing moves any more: {self._view.told()}")
            if now - said > 10:
                said = now
                say(f"{now - began:5.0f} s  {self._view.told()}; operator {self._memory():.0f} MB")
        await submitted
        return round(time.time() - began, 1)

    async def _hold(self, kube: Client, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Changes, and what they cost."""
        say(f"all jobs run; {self._args.changes:g} changes a second for {self._args.seconds:g} s")
        before, used, began = await scraped(session, setup.PORT), self._cpu(), time.time()
        changes = Changes(kube, self._view, self._args.pods)
        await changes.make(self._args.changes, self._args.seconds)
        lags, elapsed = changes.lags, time.time() - began
        for _, story in sorted(lags.told)[-SLOWEST:]:
            say(story)
        return {
            "rss_mb": round(self._memory(), 1),
            "peak_rss_mb": round(usage([self._operator.pid]).peak_mb, 1),
            "status_lag_p50_s": quantile([*lags.edits, *lags.failures], 0.5),
            "status_lag_p99_s": quantile([*lags.edits, *lags.failures], 0.99),
            "edit_lag_p99_s": quantile(lags.edits, 0.99),
            "failure_lag_p99_s": quantile(lags.failures, 0.99),
            "changes": len(lags.edits) + len(lags.failures),
            "changes_lost": lags.lost,
            "loop_lag_p99_ms": loop_lag_ms(before, await scraped(session, setup.PORT)),
            "operator_cpu_cores": round((self._cpu() - used) / elapsed, 3),
        }

    async def _start_cold(self, kube: Client, session: aiohttp.ClientSession) -> dict[str, Any]:
        """Kill it, edit a job, start another: seconds until that job's status says so, and all it wrote."""
        await self._rest(session)
        self.close()
        await asyncio.sleep(self._args.gap)
        canary = random.choice(list(self._view.jobs))
        generation = await edit(kube, canary, self._view.jobs[canary].namespace)
        log, began = AuditLog(self._cluster.audit_log), time.time()
        self._operator = setup.start_outside(self._cluster)
        at = await self._view.when(canary, lambda seen: seen.observed >= generation)
        now = await idle(session, self._args.patience)
        settled = time.time() - began
        written = [w for w in log.all_writes() if setup.is_ours(w) and w.resource != "leases"]
        for write in written:
            say(f"the new operator wrote: {write}" + ("   (the edited job)" if write.name == canary else ""))
        return {
            "takeover_s": None if at is None else round(at - began, 1),
            "takeover_settled_s": round(settled, 1),
            "takeover_writes": len(written),
            "takeover_loop_lag_p99_ms": loop_lag_ms({}, now),
            "takeover_rss_mb": round(self._memory(), 1),
        }

    async def _rest(self, session: aiohttp.ClientSession) -> None:
        """Until all jobs run again: what an operator has left undone, the next one must write."""
        deadline = time.time() + self._args.patience
        while self._view.phases["Running"] < self._args.jobs:
            if time.time() > deadline:
                raise SystemExit(f"not all jobs run again: {self._view.told()}")
            await asyncio.sleep(0.2)
        await idle(session, self._args.patience)

    def _memory(self) -> float:
        return usage([self._operator.pid]).rss_mb

    def _cpu(self) -> float:
        return usage([self._operator.pid]).cpu_s


async def idle(session: aiohttp.ClientSession, patience: float) -> Samples:
    """The metrics, once every key has been looked at."""
    deadline = time.time() + patience
    while time.time() < deadline:
        found = await scraped(session, setup.PORT)
        if found.get("mlenv_operator_workqueue_oldest_key_seconds", 1.0) == 0:
            return found
        await asyncio.sleep(0.2)
    raise SystemExit(f"The operator has not looked at every job in {patience:g} s: has it ended?")


def quantile(values: list[float], q: float) -> float | None:
    """Null of none."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else None


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=4, help="pods of each job")
    parser.add_argument("--namespaces", type=int, default=50, help="that the jobs are spread over")
    parser.add_argument("--changes", type=float, default=5, help="changes of jobs a second")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--gap", type=float, default=16, help="seconds without an operator; a Lease lives 15")
    parser.add_argument("--patience", type=float, default=180, help="seconds in which something must move")
    parser.add_argument("--name", default=setup.NAME, help="of the cluster")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    return parser.parse_args()


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    with setup.cluster(args.jobs * args.pods, keep=args.keep, name=args.name) as cluster:
        setup.prepare_outside(cluster, *homes(args.namespaces))
        bench = Bench(cluster, args)
        try:
            found = uvloop.run(bench.run())
        finally:
            bench.close()
    for name, value in found.items():
        floor = f"   (at most {FLOORS[name]:g})" if name in FLOORS else ""
        print(f"{name:<26}{value!s:>10}{floor}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
