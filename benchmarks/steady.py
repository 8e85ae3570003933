"""So many jobs a second, for as long as you like: does everything keep up, and does nothing grow?

Jobs of `launcher: None` on fake nodes are submitted at an even pace, run for some seconds, and are deleted
by their TTL a while after. 11.6 jobs a second are 30 million a month. While the backlog (submitted, and not
yet created) stays level, the machine bears the rate; where it grows, the shares of its CPU time say what is
in the way. --profile shows where the operator's own time went.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvloop
from crowd import jobs, machine, setup
from crowd.burst import connected
from crowd.scrape import loop_lag_ms, scraped
from crowd.timeline import Timeline, waits
from crowd.usage import usage
from crowd.watch import ends_by, pods_by, watching

from mlenv_api import names
from mlenv_operator.kube.resources import PODS, TRAINING_JOBS

if TYPE_CHECKING:
    from crowd.machine import Look
    from crowd.scrape import Samples
    from crowd.setup import Operator

    from mlenv_local import Cluster
    from mlenv_operator.kube.client import Client

NAMESPACE: Final = "bench-steady"
CONNECTIONS: Final = 32
SPARE: Final = 3.0
"""Fake nodes for so many times the pods that run if nothing is late."""
Figures = dict[str, Any]


class Run:
    """One stream of jobs."""

    def __init__(self, cluster: Cluster, operator: Operator, args: argparse.Namespace) -> None:
        self._cluster, self._operator, self._args = cluster, operator, args
        self._timeline = Timeline(args.pods)
        self._began = time.time()

    async def run(self) -> Figures:
        """Submit for so long, then wait for the last; the figures."""
        sights = {
            PODS: pods_by(names.LABEL_JOB, self._timeline),
            TRAINING_JOBS: ends_by("Complete", self._timeline),
        }
        async with (
            connected(self._cluster, CONNECTIONS + len(sights)) as client,
            aiohttp.ClientSession() as session,
            watching(client, NAMESPACE, sights),
        ):
            self._began, first = time.time(), self._memory()
            began, lag = self._look(), await scraped(session, setup.PORT)
            cpu = usage(self._operator.pids()).cpu_s
            async with asyncio.TaskGroup() as group:
                teller = group.create_task(self._tell())
                await self._submit(client)
                last = {"backlog": self._backlog, "rss_mb_at_end": self._memory()}
                shares = machine.spent(began, self._look(), 2)
                await self._finish()
                teller.cancel()
            cpu = usage(self._operator.pids()).cpu_s - cpu
            return self._figures(first, cpu, lag, await scraped(session, setup.PORT)) | last | {"cpu": shares}

    async def _submit(self, client: Client) -> None:
        """At an even pace; a submission that is late holds up none of the next."""
        kind = jobs.training_jobs(self._args.pods, self._args.run_for)
        async with asyncio.TaskGroup() as group:
            for number in range(self._jobs):
                await asyncio.sleep(max(0.0, self._began + number / self._args.rate - time.time()))
                name = jobs.NAME.format(number)
                made = kind.manifest(name, NAMESPACE)
                made["spec"]["ttlSecondsAfterFinished"] = self._args.ttl
                self._timeline.submit(name, time.time())
                group.create_task(client.create(TRAINING_JOBS, made))

    async def _finish(self) -> None:
        moved, before = time.time(), -1
        while self._timeline.done < self._jobs:
            if self._timeline.done != before:
                moved, before = time.time(), self._timeline.done
            if time.time() - moved > self._args.patience:
                left = ", ".join(self._timeline.missing("done")[:5])
                raise SystemExit(f"{self._jobs - before} jobs do not end, and nothing moves: {left} …")
            await asyncio.sleep(0.5)

    async def _tell(self) -> None:
        """Every half a minute, how it goes."""
        while True:
            await asyncio.sleep(30)
            seen = self._timeline
            say(
                f"{time.time() - self._began:5.0f} s  {len(seen.gangs)} submitted, {seen.created} created, "
                f"{seen.done} done; operator {self._memory():.0f} MB"
            )

    def _figures(self, first: float, cpu: float, before: Samples, after: Samples) -> Figures:
        late = [wait - self._args.run_for for wait in self._timeline.waits("done")]
        return {
            "offered_per_s": self._args.rate,
            "created_per_s": round(self._timeline.per_second("created"), 2),
            "done_per_s": round(self._timeline.per_second("done"), 2),
            "jobs": self._jobs,
            "pods": self._args.pods,
            "failed": len(self._timeline.failed),
            **waits(self._timeline, "created"),
            "overhead_p50_s": round(sorted(late)[len(late) // 2], 2),
            "operator_cpu_s_per_job": round(cpu / self._jobs, 4),
            "loop_lag_p99_ms": loop_lag_ms(before, after),
            "rss_mb_at_start": first,
        }

    @property
    def _jobs(self) -> int:
        return int(self._args.rate * self._args.seconds)

    @property
    def _backlog(self) -> int:
        return len(self._timeline.gangs) - self._timeline.created

    def _memory(self) -> float:
        return round(usage(self._operator.pids()).rss_mb, 1)

    def _look(self) -> Look:
        return machine.look(self._cluster, self._operator.pids())


def say(text: str) -> None:
    """Progress."""
    print(text, flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rate", type=float, default=11.6, help="jobs a second")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--pods", type=int, default=1, help="pods of each job")
    parser.add_argument("--run-for", type=float, default=10, help="seconds that a pod runs")
    parser.add_argument("--ttl", type=int, default=30, help="seconds that a job stays when it is done")
    parser.add_argument("--patience", type=float, default=180, help="seconds in which something must move")
    parser.add_argument("--profile", type=Path, help="cProfile's file, of the operator")
    parser.add_argument("--name", default=setup.NAME, help="of the cluster")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    return parser.parse_args()


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    live = args.rate * args.pods * (args.run_for + args.ttl) * SPARE
    with ExitStack() as stack:
        cluster = stack.enter_context(setup.cluster(int(live) + 1, keep=args.keep, name=args.name))
        operator = stack.enter_context(setup.outside(cluster, NAMESPACE, args.profile))
        found = uvloop.run(Run(cluster, operator, args).run())
    for name, value in found.items():
        print(f"{name:<26}{value!s:>10}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
