"""Leaders that die, sleep and are cut off at random moments, while jobs come and go: never two worlds.

Two real operators on a real API server, each behind a relay that can be cut. The launchers are the real
launcher's core and routing, many in this process, with real tokens; their ranks are pretended, and so is the
kubelet. Jobs fail, restart, complete and are replaced all the time, so that a fault may hit any move.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvloop
import yaml
from crowd.ports import free_ports
from fleet.launchers import Fleet

from mlenv_api.protocol import BEAT_PATH
from mlenv_local import Cluster
from mlenv_operator.kube.client import Client, Selection, never_gated
from mlenv_operator.kube.errors import ApiError
from mlenv_operator.kube.resources import TRAINING_JOBS
from mlenv_operator.kube.transport import connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT: Final = Path(__file__).parents[1]
NAMESPACE: Final = "failover"
SLOTS: Final = ("left", "right")
LEADS, MISDIRECTED = 401, 421
"""What a leader, and what any other replica, answers to a beat without a token."""
EXPECTED_CODES: Final = (1, -signal.SIGKILL)
"""Of a leader that lost its Lease, and of one that was killed."""
SETTLED_S: Final = 180.0


class Relay:
    """Carries bytes between one operator and the API server; cut, it holds them back like a dead cable."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open = asyncio.Event()
        self._open.set()
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on loopback; the port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    def cut(self) -> None:
        """Let nothing through, but lose nothing either: it comes late."""
        self._open.clear()

    def heal(self) -> None:
        """Let through what has waited, and all that follows."""
        self._open.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        with suppress(asyncio.CancelledError):  # at the end: asyncio would print it as a failure
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await self._open.wait()
                if writer.is_closing():
                    break
                writer.write(data)
                await writer.drain()
        writer.close()


@dataclass
class Operator:
    """One replica: the real program, started again when it has ended."""

    name: str
    port: int
    relay: Relay
    kubeconfig: Path
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it writes."""
        return self.kubeconfig.with_name(f"{self.name}.log")

    def keep_running(self) -> None:
        """Start it unless it runs."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return
            if code not in EXPECTED_CODES:
                raise SystemExit(f"operator {self.name} ended with code {code}: see {self.log}")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlenv_operator", "run"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def signal(self, number: int) -> None:
        """Send a signal to the process, if there is one."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)


@dataclass(frozen=True)
class Fault:
    """One fault and what came of it."""

    kind: str
    lasted_s: float
    takeover_s: float | None
    """From the fault to the first answer of another leader; null when the old one went on leading."""


class Trial:
    """Two replicas, a fleet of launchers, and the faults."""

    def __init__(self, args: argparse.Namespace, operators: list[Operator], fleet: Fleet) -> None:
        self._args = args
        self._operators = operators
        self._fleet = fleet
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2))
        self.faults: list[Fault] = []

    async def run(self) -> None:
        """All faults, one after the other, each once a leader and a standby stand."""
        async with self._session:
            for number in range(self._args.faults):
                leader = await self._stand()
                await asyncio.sleep(random.uniform(0, 2))
                self.faults.append(await self._fault(leader))
                self._say(number + 1)
            await self._stand()

    async def _stand(self) -> Operator:
        """Wait until one leads and the other knows it; ended ones are started again."""
        deadline = time.monotonic() + SETTLED_S
        while time.monotonic() < deadline:
            for one in self._operators:
                one.keep_running()
            codes = [await self._ask(one) for one in self._operators]
            if sorted(codes) == [LEADS, MISDIRECTED]:
                return self._operators[codes.index(LEADS)]
            await asyncio.sleep(0.1)
        raise SystemExit(
            f"no leader and standby within {SETTLED_S:.0f} s: see {self._operators[0].kubeconfig.parent}"
        )

    async def _ask(self, operator: Operator) -> int:
        try:
            async with self._session.post(operator.url + BEAT_PATH, data=b"{}") as answer:
                return answer.status
        except (aiohttp.ClientError, TimeoutError):
            return 0

    async def _fault(self, leader: Operator) -> Fault:
        kind = random.choice(("killed", "stopped", "cut off"))
        lasts = random.uniform(0.1, 1.6 * self._args.lease)
        term, began = self._fleet.records.last_term, time.monotonic()
        if kind == "killed":
            leader.signal(signal.SIGKILL)
            taken = await self._fleet.records.newer_term(term, self._args.lease * 2 + 10)
            return Fault(kind, 0.0, taken and taken - began)
        leader.signal(signal.SIGSTOP) if kind == "stopped" else leader.relay.cut()
        taken = await self._fleet.records.newer_term(term, lasts)
        await asyncio.sleep(max(0.0, began + lasts - time.monotonic()))
        leader.signal(signal.SIGCONT)
        leader.relay.heal()
        # What it may still do with a Lease that has run out, it does now.
        taken = taken or await self._fleet.records.newer_term(term, 3.0)
        return Fault(kind, lasts, taken and taken - began)

    def _say(self, number: int) -> None:
        fault, records = self.faults[-1], self._fleet.records
        what = "nobody else led" if fault.takeover_s is None else f"taken over in {fault.takeover_s:.1f} s"
        print(
            f"{number:>4}/{self._args.faults}  {fault.kind:<8} {fault.lasted_s:5.1f} s  {what:<24}"
            f"term {records.last_term}, {records.beats} beats, {len(records.worlds)} worlds, "
            f"{self._fleet.jobs_done} jobs done, double {records.double_worlds}",
            flush=True,
        )


async def measure(cluster: Cluster, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The whole run."""
    async with connect(user_agent="failover", kubeconfig=str(cluster.kubeconfig)) as transport:
        client = Client(transport, never_gated)
        fleet = Fleet(client, cluster, NAMESPACE, jobs=args.jobs, pods=args.pods)
        operators = [op async for op in replicas(cluster, folder, args)]
        fleet.urls = tuple(one.url for one in operators)
        try:
            running = asyncio.create_task(fleet.run())
            trial = Trial(args, operators, fleet)
            began = time.monotonic()
            await trial.run()
            stuck = await drained(client, fleet)
            running.cancel()
            return figures(args, trial, fleet, stuck, time.monotonic() - began)
        finally:
            for one in operators:
                one.signal(signal.SIGKILL)


async def replicas(cluster: Cluster, folder: Path, args: argparse.Namespace) -> AsyncIterator[Operator]:
    """Both, not yet started."""
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    host, _, port = config["clusters"][0]["cluster"]["server"].removeprefix("https://").rpartition(":")
    ports = dict(zip(SLOTS, free_ports(len(SLOTS)), strict=True))
    for name in SLOTS:
        relay = Relay(host, int(port))
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{await relay.start()}"
        kubeconfig = folder / f"{name}.kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        variables = {
            "KUBECONFIG": str(kubeconfig),
            "POD_NAMESPACE": NAMESPACE,
            "POD_NAME": name,
            "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
            "MLENV_OPERATOR_HTTP_PORT": str(ports[name]),
            "MLENV_OPERATOR_LAUNCHER_URLS": ",".join(f"http://127.0.0.1:{one}" for one in ports.values()),
            "MLENV_OPERATOR_LEASE_DURATION_S": str(args.lease),
            "MLENV_OPERATOR_LEASE_RENEW_DEADLINE_S": str(args.lease * 2 / 3),
            "MLENV_OPERATOR_LEASE_RETRY_PERIOD_S": str(args.lease * 2 / 15),
            "MLENV_OPERATOR_LOG_FORMAT": "text",
        }
        yield Operator(name, ports[name], relay, kubeconfig, os.environ | variables)


async def drained(client: Client, fleet: Fleet) -> int:
    """No new jobs; how many of the last ones do not come to their end."""
    fleet.replace = False
    deadline = time.monotonic() + SETTLED_S
    left = 1
    while left and time.monotonic() < deadline:
        with suppress(ApiError):
            pages = client.list_pages(TRAINING_JOBS, Selection(namespace=NAMESPACE, metadata_only=True))
            left = sum([len(page.items) async for page in pages])
        await asyncio.sleep(0.5)
    return left


def figures(
    args: argparse.Namespace, trial: Trial, fleet: Fleet, stuck: int, seconds: float
) -> dict[str, Any]:
    """What is told in the end."""
    records = fleet.records
    times = sorted(one.takeover_s for one in trial.faults if one.takeover_s is not None)
    return {
        "lease_s": args.lease,
        "faults": dict(Counter(one.kind for one in trial.faults)),
        "takeovers": len(times),
        "takeover_p50_s": round(times[len(times) // 2], 2) if times else None,
        "takeover_max_s": round(times[-1], 2) if times else None,
        "beats_per_s": round(records.beats / seconds, 1),
        "worlds": len(records.worlds),
        "jobs_done": fleet.jobs_done,
        "jobs_stuck": stuck,
        "terms_with_two_leaders": records.double_terms,
        "double_worlds": records.double_worlds,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument(
        "--lease", type=float, default=15.0, help="duration of the Lease; other times in proportion"
    )
    parser.add_argument("--jobs", type=int, default=30, help="jobs at a time")
    parser.add_argument("--pods", type=int, default=4, help="pods of each job")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--name", default="mlenv-bench-f", help="of the cluster, which is made anew")
    return parser.parse_args()


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    random.seed(args.seed)
    cluster = Cluster(args.name)
    cluster.down()
    cluster.up(nodes=1)
    folder = Path(tempfile.mkdtemp(prefix="failover-"))
    try:
        cluster.kubectl("apply", "-f", str(ROOT / "crds"))
        cluster.kubectl("create", "namespace", NAMESPACE)
        found = uvloop.run(measure(cluster, folder, args))
    finally:
        cluster.down()
    for name, value in found.items():
        print(f"{name:<24}{value!s:>12}")
    good = not (found["double_worlds"] or found["terms_with_two_leaders"] or found["jobs_stuck"])
    if good:
        shutil.rmtree(folder)
    else:
        print(f"the operators' logs: {folder}")
    print(json.dumps(found))
    sys.exit(not good)


if __name__ == "__main__":
    main()
