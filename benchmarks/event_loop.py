"""One event loop as Lease holder, rendezvous, watcher and metrics page at once.

The real operator against a real API server: launchers' beats with real tokens on new connections, changes
of jobs, a burst of new ones, and a scrape of 100,000 samples every 15 s, all at the same time, from a second
process on the same cores. Pods are real objects; a stand-in for the kubelet says that they run: a thousand
would not fit. The burst's pods are only created.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop
from crowd.ports import free_ports
from crowd.scrape import loop_lag_ms, scraped
from crowd.usage import usage

from mlenv_api import names
from mlenv_api.protocol import BEAT_PATH, Beat, LauncherPhase, Progress
from mlenv_local import Cluster
from mlenv_local.tokens import mint
from mlenv_operator.kube.client import Client, Selection, never_gated
from mlenv_operator.kube.resources import LEASES, PODS, TRAINING_JOBS
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ROOT = Path(__file__).parents[1]
BURDENED = Path(__file__).parent / "crowd" / "burdened.py"
PORT_VARIABLE = "MLENV_OPERATOR_HTTP_PORT"
PORT = int(os.environ.get(PORT_VARIABLE) or free_ports(1)[0])
URL = f"http://127.0.0.1:{PORT}"
NAMESPACE = "bench"
SAMPLES = 100_000
SCRAPE_EVERY_S = 15.0
IN_FLIGHT = 500
FLOORS = {"loop_lag_p99_ms": 250.0, "operator_rss_mb": 300.0, "lease_transitions": 0}


@dataclass(frozen=True)
class Pod:
    """A pod whose launcher this benchmark plays."""

    name: str
    uid: str
    index: int
    token: str


@dataclass
class Tally:
    """What came back."""

    ok: int = 0
    failed: int = 0
    changes: int = 0
    seconds: list[float] | None = None


@contextmanager
def operator(cluster: Cluster) -> Iterator[int]:
    """Run it beside us; yields its pid."""
    env = os.environ | {
        "KUBECONFIG": str(cluster.kubeconfig),
        "POD_NAMESPACE": NAMESPACE,
        "POD_NAME": "bench-operator",
        "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
        PORT_VARIABLE: str(PORT),
    }
    process = subprocess.Popen([sys.executable, str(BURDENED), str(SAMPLES)], env=env)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)


def job(name: str, pods: int) -> dict[str, Any]:
    """A job whose pods no scheduler touches."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.TRAINING_JOB,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "trainer": {"image": "none.invalid/none:1", "command": ["x"], "numNodes": pods},
            "scheduling": {"assemblyTimeoutSeconds": 3600},
            "podTemplateOverrides": {"spec": {"schedulerName": "nobody"}},
        },
    }


async def wait_for(what: str, condition: Any, seconds: float = 300) -> None:
    """Poll until it holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting for {what}")
        await asyncio.sleep(0.5)


async def items(client: Client, resource: Any) -> list[dict[str, Any]]:
    """Everything in our namespace."""
    pages = client.list_pages(resource, Selection(namespace=NAMESPACE))
    return [item async for page in pages for item in page.items]


async def in_parallel(works: list[Any], width: int = 32) -> None:
    """At most so many at a time."""
    gate = asyncio.Semaphore(width)

    async def one(work: Any) -> None:
        async with gate:
            await work

    await asyncio.gather(*map(one, works))


async def submit(client: Client, prefix: str, jobs: int, pods: int) -> None:
    """So many jobs at once."""
    made = (job(f"{prefix}{number}", pods) for number in range(jobs))
    await in_parallel([client.create(TRAINING_JOBS, one) for one in made])


async def run_pod(client: Client, pod: dict[str, Any], number: int) -> None:
    """What a kubelet would say."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    state: dict[str, Any] = {"name": names.TRAINER_CONTAINER, "image": "x", "imageID": "x", "ready": True}
    state |= {"restartCount": 0, "state": {"running": {"startedAt": now}}}
    ip = f"10.99.{number // 250}.{number % 250 + 1}"
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "containerStatuses": [state]}
    name = pod["metadata"]["name"]
    await client.merge_patch(PODS, NAMESPACE, name, {"status": status}, subresource="status")


async def setup(client: Client, cluster: Cluster, args: argparse.Namespace) -> list[Pod]:
    """Jobs submitted, their pods running, their launchers about to speak."""
    await submit(client, "j", args.jobs, args.pods)
    wanted = args.jobs * args.pods

    async def all_pods() -> bool:
        return bool(len(await items(client, PODS)) == wanted)

    await wait_for(f"{wanted} pods", all_pods)
    raw = await items(client, PODS)
    await in_parallel([run_pod(client, pod, number) for number, pod in enumerate(raw)])
    key = cluster.sa_signing_key.read_bytes()
    account = cluster.kubectl.get("serviceaccount", "default", "-n", NAMESPACE)["metadata"]["uid"]
    return [_pod(one, key, account) for one in raw]


def _pod(raw: dict[str, Any], key: bytes, account_uid: str) -> Pod:
    metadata = raw["metadata"]
    token = mint(
        key,
        namespace=NAMESPACE,
        service_account="default",
        service_account_uid=account_uid,
        pod=metadata["name"],
        pod_uid=metadata["uid"],
        audience=names.TOKEN_AUDIENCE,
        lifetime_s=7200,
    )
    index = int(metadata["annotations"][names.ANNOTATION_INDEX])
    return Pod(metadata["name"], metadata["uid"], index, token)


def beat(pod: Pod, phase: LauncherPhase, attempt: int, step: int) -> bytes:
    """One beat."""
    now = datetime.now(UTC)
    progress = Progress(step=step, total_steps=100_000, samples=step * 4096, metrics={"loss": 0.5}, time=now)
    said = Beat(
        protocol=1,
        attempt=attempt,
        phase=phase,
        port=29500 if pod.index == 0 else None,
        progress=progress if step else None,
        time=now,
    )
    return said.model_dump_json(by_alias=True, exclude_none=True).encode()


async def send(pod: Pod, body: bytes, tally: Tally) -> None:
    """Beat once, on a connection of its own; by hand, for a full HTTP client costs more than the operator."""
    began = time.perf_counter()
    head = (
        f"POST {BEAT_PATH} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {pod.token}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    try:
        async with asyncio.timeout(30):
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
            writer.write(head.encode() + body)
            status = await reader.readline()
            await reader.read()
            writer.close()
        tally.ok += b" 200 " in status
        tally.failed += b" 200 " not in status
    except (OSError, TimeoutError):
        tally.failed += 1
    if tally.seconds is not None:
        tally.seconds.append(time.perf_counter() - began)


async def paced(per_second: float, seconds: float) -> AsyncIterator[int]:
    """So many turns a second; late ones follow at once, in bounded number."""
    start = time.monotonic()
    for number in range(int(per_second * seconds)):
        ahead = start + number / per_second - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
        yield number


async def beats(pods: list[Pod], args: Any, tally: Tally) -> None:
    """Beats at the asked rate; no more than so many at a time, as launchers wait for their answers too."""
    gate = asyncio.Semaphore(IN_FLIGHT)
    flying: set[asyncio.Task[None]] = set()

    async def one(pod: Pod, body: bytes) -> None:
        try:
            await send(pod, body, tally)
        finally:
            gate.release()

    async for number in paced(args.beats, args.seconds):
        pod = pods[number % len(pods)]
        body = beat(pod, LauncherPhase.RUNNING, 1, number // len(pods) + 1)
        await gate.acquire()
        task = asyncio.create_task(one(pod, body))
        flying.add(task)
        task.add_done_callback(flying.discard)
    await asyncio.gather(*flying)


async def changes(client: Client, args: Any, tally: Tally) -> None:
    """Edits of jobs at the asked rate."""
    flying: set[asyncio.Task[Any]] = set()
    async for number in paced(args.changes, args.seconds):
        name = f"j{random.randrange(args.jobs)}"
        patch = {"spec": {"ttlSecondsAfterFinished": 1000 + number}}
        task = asyncio.create_task(client.merge_patch(TRAINING_JOBS, NAMESPACE, name, patch))
        flying.add(task)
        task.add_done_callback(flying.discard)
        tally.changes += 1
    await asyncio.gather(*flying, return_exceptions=True)


async def burst(client: Client, args: Any) -> float | None:
    """Many new jobs at once: gangs a second, from the first submission to the last pod."""
    if not args.burst:
        return None
    wanted, began = (args.jobs + args.burst) * args.pods, time.monotonic()
    await submit(client, "b", args.burst, args.pods)

    async def all_pods() -> bool:
        return bool(len(await items(client, PODS)) >= wanted)

    await wait_for(f"{wanted} pods", all_pods)
    return round(float(args.burst) / (time.monotonic() - began), 1)


async def scrapes(session: aiohttp.ClientSession, seconds: float) -> None:
    """As Prometheus would."""
    async for _ in paced(1 / SCRAPE_EVERY_S, seconds):
        with suppress(TimeoutError):
            async with session.get(f"{URL}/metrics") as response:
                await response.read()


async def measure(cluster: Cluster, pid: int, args: argparse.Namespace) -> dict[str, float | None]:
    """The whole run."""
    async with connect(user_agent="bench", kubeconfig=str(cluster.kubeconfig)) as transport:
        client = Client(transport, never_gated)
        connector = aiohttp.TCPConnector(force_close=True, limit=0)
        timeout = aiohttp.ClientTimeout(total=30)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            pods = await setup(client, cluster, args)
            await form_worlds(client, pods, args)
            term = await transitions(client)
            before, cpu, began = await scraped(session, PORT), usage([pid]).cpu_s, time.monotonic()
            tally = Tally(seconds=[])
            *_, gangs = await asyncio.gather(
                beats(pods, args, tally),
                changes(client, args, tally),
                scrapes(session, args.seconds),
                burst(client, args),
            )
            elapsed = time.monotonic() - began
            after = await scraped(session, PORT)
            times = sorted(tally.seconds or [0.0])
            return {
                "beats_per_s": round(tally.ok / elapsed, 1),
                "beats_failed": tally.failed,
                "burst_gangs_per_s": gangs,
                "job_changes_per_s": round(tally.changes / elapsed, 1),
                "beat_p50_ms": round(times[len(times) // 2] * 1000, 1),
                "beat_p99_ms": round(times[int(len(times) * 0.99)] * 1000, 1),
                "loop_lag_p50_ms": loop_lag_ms(before, after, 0.5),
                "loop_lag_p99_ms": loop_lag_ms(before, after),
                "operator_cpu_cores": round((usage([pid]).cpu_s - cpu) / elapsed, 2),
                "operator_rss_mb": round(usage([pid]).peak_mb, 1),
                "lease_transitions": await transitions(client) - term,
            }


async def form_worlds(client: Client, pods: list[Pod], args: argparse.Namespace) -> None:
    """Every launcher reports, until every job runs."""
    waiting = Tally()

    async def all_run() -> bool:
        await in_parallel([send(pod, beat(pod, LauncherPhase.WAITING, 1, 0), waiting) for pod in pods], 64)
        jobs = await items(client, TRAINING_JOBS)
        running = [one for one in jobs if (one.get("status") or {}).get("phase") == "Running"]
        return bool(len(running) == args.jobs)

    await wait_for("all jobs to run", all_run)


async def transitions(client: Client) -> int:
    """How often the Lease has changed hands."""
    lease = await client.get(LEASES, NAMESPACE, names.LEASE_NAME)
    return int(lease["spec"].get("leaseTransitions") or 0)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=250)
    parser.add_argument("--pods", type=int, default=4, help="pods of each job")
    parser.add_argument("--beats", type=float, default=1000, help="beats a second")
    parser.add_argument("--changes", type=float, default=50, help="changes of jobs a second")
    parser.add_argument("--burst", type=int, default=300, help="jobs submitted at once meanwhile")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--name", default="mlenv-bench-loop", help="of the cluster")
    parser.add_argument("--keep", action="store_true", help="leave the cluster up")
    return parser.parse_args()


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    cluster = Cluster(args.name)
    cluster.down()
    cluster.up(nodes=1)
    try:
        cluster.kubectl("apply", "-f", str(ROOT / "crds"))
        cluster.kubectl("create", "namespace", NAMESPACE)
        with operator(cluster) as pid:
            figures = uvloop.run(measure(cluster, pid, args))
    finally:
        if not args.keep:
            cluster.down()
    for name, value in figures.items():
        floor = f"   (at most {FLOORS[name]:g})" if name in FLOORS else ""
        print(f"{name:<22}{value!s:>10}{floor}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
