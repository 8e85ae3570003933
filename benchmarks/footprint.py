"""A cold start of the operator before many live jobs, without a cluster: memory, and how late its loop is.

The real operator, as a process of its own, reads from a server that knows nothing but lists of finished
pages: jobs that run, their pods and Services, as a real API server would tell of them. Nothing changes, so
nothing must be written. Takes seconds, and no root; `live` shows the same with everything that is real.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import uvloop
import yaml
from crowd.ports import free_ports
from crowd.scrape import loop_lag_ms, scraped
from crowd.still import Still, serve
from crowd.usage import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT: Final = free_ports(1)[0]
PATIENCE_S: Final = 300.0


@contextmanager
def started(argv: list[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process, ended in the end."""
    process = subprocess.Popen(argv, env=os.environ | env)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def kubeconfig(folder: Path, port: int) -> Path:
    """Of the server."""
    path = folder / "kubeconfig"
    cluster = {"name": "still", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "still", "context": {"cluster": "still", "user": "still"}}
    user = {"name": "still", "user": {"token": "x"}}
    config = {"clusters": [cluster], "contexts": [context], "users": [user], "current-context": "still"}
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **config}))
    return path


def variables(folder: Path, port: int) -> dict[str, str]:
    """Of the operator."""
    return {
        "KUBECONFIG": str(kubeconfig(folder, port)),
        "POD_NAMESPACE": "mlenv-system",
        "POD_NAME": "footprint",
        "MLENV_OPERATOR_HTTP_HOST": "127.0.0.1",
        "MLENV_OPERATOR_HTTP_PORT": str(PORT),
        "MLENV_OPERATOR_LOG_LEVEL": "WARNING",
    }


async def settled(session: aiohttp.ClientSession, jobs: int) -> dict[str, float]:
    """The metrics, once it leads and has looked at every job."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = await scraped(session, PORT)
        looked = sum(value for name, value in found.items() if name.startswith("mlenv_operator_reconcile_"))
        idle = found.get("mlenv_operator_workqueue_oldest_key_seconds") == 0
        if found.get("mlenv_operator_leader") == 1 and looked >= jobs and idle:
            return found
        await asyncio.sleep(0.2)
    raise SystemExit(f"the operator has not looked at {jobs} jobs within {PATIENCE_S:.0f} s")


async def measure(pid: int, port: int, args: argparse.Namespace) -> dict[str, Any]:
    """From the start until all is quiet."""
    began = time.monotonic()
    url = f"http://127.0.0.1:{port}/writes"
    async with aiohttp.ClientSession() as session:
        found = await settled(session, args.jobs)
        took = time.monotonic() - began
        await asyncio.sleep(args.rest)
        used = usage([pid])
        async with session.get(url) as response:
            writes = await response.json()
    return {
        "jobs": args.jobs,
        "pods": args.pods,
        "cold_start_s": round(took, 1),
        "cpu_s": round(used.cpu_s, 1),
        "rss_mb": round(used.rss_mb, 1),
        "peak_rss_mb": round(used.peak_mb, 1),
        "loop_lag_p99_ms": loop_lag_ms({}, found),
        "loop_lag_max_ms": loop_lag_ms({}, found, 1.0),
        "writes": writes,
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--pods", type=int, default=4, help="pods of each job, 16 at most")
    parser.add_argument("--rest", type=float, default=3, help="seconds until memory is looked at")
    parser.add_argument("--role", choices=["bench", "server"], default="bench", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run, print the table, and as the last line the figures as JSON."""
    args = arguments()
    if args.role == "server":
        uvloop.run(serve(Still(args.jobs, args.pods), args.port))
        return
    (port,) = free_ports(1)
    server = [sys.executable, __file__, "--role=server", f"--port={port}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        started([*server, f"--jobs={args.jobs}", f"--pods={args.pods}"], {}),
    ):
        uvloop.run(reachable(port))
        argv = [sys.executable, "-m", "mlenv_operator", "run"]
        with started(argv, variables(Path(folder), port)) as operator:
            found = uvloop.run(measure(operator.pid, port, args))
    for name, value in found.items():
        print(f"{name:<20}{value!s:>10}")
    print(json.dumps(found))


async def reachable(port: int) -> None:
    """Wait for the server: it writes its pages first."""
    deadline = time.monotonic() + PATIENCE_S
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline:
            try:
                async with session.get(f"http://127.0.0.1:{port}/writes"):
                    return
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
    raise SystemExit("the server does not come up")


if __name__ == "__main__":
    main()
