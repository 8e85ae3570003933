"""Ten thousand jobs held live by one operator: its memory, how late statuses are, and a cold start.

Jobs of `launcher: None` on fake nodes. Once all run, two things change so many times a second: specs are
edited, and programs fail; the lag is from the change to the status that speaks of it. Then the operator is
killed, and another one, started cold, has to take over and to write nothing that nobody needs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvloop

from mlenv_api import names
from mlenv_local import Cluster
from mlenv_operator.kube.client import Client, Selection, never_gated
from mlenv_operator.kube.errors import ApiError
from mlenv_operator.kube.resources import PODS, TRAINING_JOBS
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

ROOT: Final = Path(__file__).parents[1]
NAMESPACE: Final = "live"
PORT: Final = 18981
PODS_PER_NODE: Final = 250
Raw = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What the newest status of a job says."""

    uid: str
    generation: int
    observed: int
    attempt: int
    phase: str


@dataclass
class View:
    """All jobs as a watch tells of them."""

    jobs: dict[str, Seen] = field(default_factory=dict)
    _waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = field(default_factory=list)

    async def follow(self, client: Client) -> None:
        """List and watch until cancelled."""
        selection = Selection(namespace=NAMESPACE)
        while True:
            version = ""
            async for page in client.list_pages(TRAINING_JOBS, selection):
                version = page.resource_version
                for raw in page.items:
                    self._put(raw)
            try:
                async for type_, raw in client.watch(TRAINING_JOBS, version, selection):
                    if type_ != "BOOKMARK":
                        self._put(raw)
            except ApiError:
                continue

    def _put(self, raw: Raw) -> None:
        metadata, status = raw["metadata"], raw.get("status") or {}
        self.jobs[metadata["name"]] = Seen(
            metadata["uid"],
            metadata["generation"],
            status.get("observedGeneration", -1),
            (status.get("attempt") or {}).get("number", 0),
            status.get("phase", ""),
        )
        for entry in [one for one in self._waiting if one[0]()]:
            self._waiting.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    async def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Wait until it holds; whether it does."""
        if holds():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((holds, future))
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        return True

    def phases(self) -> Counter[str]:
        """How many jobs stand where."""
        return Counter(one.phase for one in self.jobs.values())


class Operator:
    """The real program, beside us."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        env = os.environ | {
            "KUBECONFIG": str(cluster.kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": name,
            "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
            "MLENV_OPERATOR_HTTP_PORT": str(PORT),
            "MLENV_OPERATOR_LOG_LEVEL": "WARNING",
        }
        self._process = subprocess.Popen([sys.executable, "-m", "mlenv_operator"], env=env)

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def memory_mb(self, field: str = "VmRSS") -> float:
        """Resident memory, now or (VmHWM) at its peak."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.partition(f"{field}:")[2].split()[0]) / 1000

    def cpu_s(self) -> float:
        """CPU time so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def metrics(session: aiohttp.ClientSession) -> dict[str, float]:
    """The operator's samples by their whole name; none while it does not answer."""
    try:
        async with session.get(f"http://127.0.0.1:{PORT}/metrics") as response:
            text = await response.text()
    except (aiohttp.ClientError, TimeoutError):
        return {}
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def lag_p99_ms(before: dict[str, float], after: dict[str, float]) -> float:
    """Upper bound of the bucket that holds the 99th percentile of the event loop's lag."""
    pattern = re.compile(r'mlenv_operator_event_loop_lag_seconds_bucket\{le="(\S+)"\}')
    found = {float(m[1]): after[name] - before.get(name, 0.0) for name in after if (m := pattern.match(name))}
    total = found.get(float("inf"), 0.0)
    return next((le for le in sorted(found) if found[le] >= 0.99 * total), float("inf")) * 1000


def job(number: int, pods: int) -> Raw:
    """A job whose program runs until it is told to stop, on fake nodes."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"name": f"j{number}", "namespace": NAMESPACE},
        "spec": {
            "launcher": "None",
            "trainer": {"image": "none.invalid/none:1", "command": ["x"], "numNodes": pods},
            "failurePolicy": {"maxRestarts": 1000},
            "scheduling": {"assemblyTimeoutSeconds": 3600},
            "podTemplateOverrides": {"spec": ON_FAKE_NODES},
        },
    }


async def in_parallel(works: AsyncIterator[Any] | list[Any], width: int = 32) -> None:
    """At most so many at a time."""
    gate = asyncio.Semaphore(width)

    async def one(work: Any) -> None:
        async with gate:
            await work

    await asyncio.gather(*map(one, works))


async def fill(client: Client, view: View, args: argparse.Namespace) -> float:
    """Submit everything, and wait until all jobs run; the seconds that took."""
    began = time.monotonic()
    submitted = asyncio.create_task(
        in_parallel([client.create(TRAINING_JOBS, job(number, args.pods)) for number in range(args.jobs)])
    )

    def all_run() -> bool:
        return view.phases()["Running"] == args.jobs

    while not await view.until(all_run, 10):
        say(f"{time.monotonic() - began:5.0f} s  {dict(view.phases())}")
        if time.monotonic() - began > args.patience:
            raise SystemExit(f"not all jobs run after {args.patience:.0f} s: {dict(view.phases())}")
    await submitted
    return time.monotonic() - began


@dataclass
class Lags:
    """From a change to the status that speaks of it, in seconds."""

    edits: list[float] = field(default_factory=list)
    failures: list[float] = field(default_factory=list)
    lost: int = 0

    def p99(self) -> float:
        """Over all changes."""
        times = sorted([*self.edits, *self.failures])
        return times[min(len(times) - 1, int(0.99 * len(times)))] if times else float("inf")


class Changes:
    """Edits and failures at random, each followed until the status shows it."""

    def __init__(self, client: Client, view: View, pods: int) -> None:
        self._client, self._view, self._pods = client, view, pods
        self._busy: set[str] = set()
        self.lags = Lags()

    async def make(self, per_second: float, seconds: float) -> None:
        """So many a second, for so long."""
        async with asyncio.TaskGroup() as group:
            async for number in paced(per_second, seconds):
                name = random.choice([one for one in self._view.jobs if one not in self._busy])
                group.create_task(self._one(name, self._edit if number % 2 else self._fail))

    async def _one(self, name: str, change: Callable[[str], Any]) -> None:
        self._busy.add(name)
        try:
            await change(name)
        finally:
            self._busy.discard(name)

    async def _edit(self, name: str) -> None:
        began = time.monotonic()
        patch = {"spec": {"ttlSecondsAfterFinished": random.randrange(10**6)}}
        made = await self._client.merge_patch(TRAINING_JOBS, NAMESPACE, name, patch)
        wanted = made["metadata"]["generation"]
        await self._follow(began, self.lags.edits, lambda: self._view.jobs[name].observed >= wanted)

    async def _fail(self, name: str) -> None:
        """One program ends with exit code 1, as its kubelet would say; the status then names a new attempt."""
        before, began = self._view.jobs[name].attempt, time.monotonic()
        pod = f"{name}-{random.randrange(self._pods)}-{before - 1}"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ended = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": now, "finishedAt": now}}
        container = {"name": names.TRAINER_CONTAINER, "image": "x", "imageID": "x", "ready": False}
        status = {"phase": "Failed", "containerStatuses": [{**container, "restartCount": 0, "state": ended}]}
        await self._client.merge_patch(PODS, NAMESPACE, pod, {"status": status}, subresource="status")
        await self._follow(began, self.lags.failures, lambda: self._view.jobs[name].attempt > before)

    async def _follow(self, began: float, times: list[float], holds: Callable[[], bool]) -> None:
        if await self._view.until(holds, 60):
            times.append(time.monotonic() - began)
        else:
            self.lags.lost += 1


async def paced(per_second: float, seconds: float) -> AsyncIterator[int]:
    """So many turns a second."""
    start = time.monotonic()
    for number in range(int(per_second * seconds)):
        await asyncio.sleep(max(0.0, start + number / per_second - time.monotonic()))
        yield number


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)
