"""Operators that run outside of the cluster, as processes of the test."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mlenv_api import names
from mlenv_api.protocol import BEAT_PATH
from mlenv_local import platform
from mlenv_local.binaries import cache_folder
from mlenv_local.images.runtime import host_runtime, runtime_archive

if TYPE_CHECKING:
    from killed_operator import Trap
    from live import Namespace, Raw

    from mlenv_local import Cluster

ROOT = Path(__file__).parents[2]
SYSTEM = platform.NAMESPACE
LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{names.LEASE_NAME}"


def prepare(cluster: Cluster) -> None:
    """What jobs need besides an operator: definitions, an environment, and a place for the Lease."""
    cluster.load_image(runtime_archive(cache_folder() / "images"))
    definitions = [yaml.safe_load(file.read_text()) for file in sorted((ROOT / "crds").glob("*.yaml"))]
    cluster.kubectl.apply(*definitions)
    for one in definitions:
        name = one["metadata"]["name"]
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{name}", "--timeout=120s")
    environment = platform.chart_values(host_runtime(), "none", {})["environments"][0]
    cluster.kubectl.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}},
        {
            "apiVersion": names.API_VERSION,
            "kind": names.CLUSTER_ENVIRONMENT,
            "metadata": {"name": environment["name"]},
            "spec": environment["spec"],
        },
    )


class Outside:
    """One operator process; it listens where pods of the cluster reach it."""

    def __init__(self, cluster: Cluster, name: str, port: int, log: Path, **settings: str) -> None:
        self.name, self.port, self.log = name, port, log
        self.host = str(cluster.layout.host_address)
        variables = {
            "KUBECONFIG": str(cluster.kubeconfig),
            "POD_NAME": name,
            "POD_NAMESPACE": SYSTEM,
            "POD_IP": self.host,
            "MLENV_OPERATOR_HTTP_HOST": self.host,
            "MLENV_OPERATOR_HTTP_PORT": str(port),
            "PYTHONPATH": str(Path(__file__).parent),
            **settings,
        }
        with log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "killed_operator"],
                env={**os.environ, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

    @property
    def address(self) -> str:
        """Base URL."""
        return f"http://{self.host}:{self.port}"

    def begin(self) -> None:
        """It was loaded and waiting; now it works."""
        self._tell("run\n")

    def set(self, trap: Trap) -> None:
        """End, or stop, at this write."""
        self._tell(trap.line())
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "set\n", self.tail()

    def kill(self) -> None:
        """SIGKILL, and wait."""
        self.process.kill()
        self.wait()

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit status, negative for a signal."""
        return self.process.wait(seconds)

    def until_stopped(self, seconds: float = 300) -> None:
        """It has been stopped by SIGSTOP."""
        deadline = time.monotonic() + seconds
        while not os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT):
            assert time.monotonic() < deadline, f"{self.name} was not stopped\n{self.tail()}"
            time.sleep(0.05)

    def close(self) -> None:
        """End it, however it is."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()

    def ask(self) -> tuple[int, Raw]:
        """What it answers to a beat without a token; 0 when it does not."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=10)
        try:
            connection.request("POST", BEAT_PATH, "{}")
            reply = connection.getresponse()
            body: Raw = json.loads(reply.read() or b"{}")
        except (OSError, ValueError):
            return 0, {}
        finally:
            connection.close()
        return reply.status, body

    def says(self) -> int:
        """The status of that answer."""
        return self.ask()[0]

    def leader(self) -> str | None:
        """Whom it names as the leader in that answer."""
        leader: str | None = self.ask()[1].get("leader")
        return leader

    def tail(self) -> str:
        """The last lines of its log."""
        return "".join(self.log.read_text().splitlines(keepends=True)[-40:])

    def _tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()


@dataclass
class Operators:
    """One operator that works, one that is loaded and waits for its turn."""

    cluster: Cluster
    folder: Path
    port: int
    count: int = 0
    working: Outside | None = None
    spare: Outside | None = None
    all: list[Outside] = field(default_factory=list)

    def ready(self) -> Outside:
        """The one that works, begun if need be."""
        if self.working is None:
            self.working = self._load() if self.spare is None else self.spare
            self.spare = self._load()
            self.working.begin()
        return self.working

    def died(self, ns: Namespace) -> None:
        """Wait until it has been killed, and let the next one begin.

        The Lease is given away as if its time were over; that it runs out by itself is another test's.
        """
        working = self.ready()
        assert working.wait() == -signal.SIGKILL, working.tail()
        ns.api.patch(LEASE, {"spec": {"holderIdentity": ""}})
        self.working = None
        self.ready()

    def close(self) -> None:
        """End them."""
        for one in self.all:
            one.close()

    def _load(self) -> Outside:
        self.count += 1
        log = self.folder / f"operator-{self.count}.log"
        self.all.append(Outside(self.cluster, f"op-{self.count}", self.port, log))
        return self.all[-1]
