"""Jobs of a real cluster whose couriers carry to a real W&B server on the cluster's own bridge."""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import kills
from history import History
from hunt import Ground
from live import MERGE, Namespace, condition
from wandb_server import Client, Server

from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from live import Job

    from mlenv_local import Cluster

Raw = dict[str, Any]
PATIENCE: Final = 900.0
PROJECT: Final = "e2e"
SECRET: Final = "wandb"
COURIER: Final = "mlenv.courier"
_VERSIONS: Final = """\
    api = wandb.Api()
    place, kind = sys.argv[1], "checkpoint"
    found = api.artifacts(kind, place) if api.artifact_collection_exists(place, kind) else []
    tell([{"name": one.name, "state": one.state, "aliases": sorted(one.aliases), "step": one.metadata["step"],
           "digest": one.metadata["digest"], "verified": one.metadata.get("verified")} for one in found])
"""

_CONFIG: Final = 'tell(wandb.Api().run(sys.argv[1]).config["mlenv"])'


@dataclass
class Tracked:
    """A namespace with jobs whose checkpoints go to a server, which may be killed and started."""

    ground: Ground
    server: Server
    key: str
    url: str
    """Of the server, also while it is away."""
    jobs: dict[str, Job] = field(default_factory=dict)

    @property
    def ns(self) -> Namespace:
        """Where the jobs are."""
        return self.ground.ns

    def submit(self, name: str, steps: int, *, nodes: int = 2, **more: Any) -> Job:
        """A job with couriers. With `hold=STEP` its ranks wait behind that step until `let_go`."""
        hold, spool = more.pop("hold", None), more.pop("spool", None)
        wandb = {
            "entity": "ada",
            "project": PROJECT,
            "baseURL": self.url,
            "apiKeySecretRef": {"name": more.pop("secret", SECRET), "key": "api-key"},
            **more.pop("wandb", {}),
        }
        spec = {"tracking": {"wandb": wandb}, **more}
        env = {"HOLD": str(hold)} if hold is not None else {}
        job = self.ground.submit(name, nodes, 1, steps, spool, spec, **env)
        self.jobs[name] = job
        return job

    def let_go(self, job: Job) -> None:
        """Ranks that hold go on."""
        (self.ground.folder / job.name / "go").touch()

    def secret(self, key: str, name: str = SECRET) -> None:
        """Store a key in the Secret, or another one than before."""
        path = f"/api/v1/namespaces/{self.ns.name}/secrets"
        data = {"api-key": base64.b64encode(key.encode()).decode()}
        listed = [one["metadata"]["name"] for one in self.ns.api.get(path)["items"]]
        if name in listed:
            self.ns.api.call("PATCH", f"{path}/{name}", {"data": data}, MERGE)
        else:
            self.ns.api.create(path, {"metadata": {"name": name}, "data": data})

    def versions(self, job: Job) -> list[Raw]:
        """What the server has of a job, as the real client lists it."""
        with tempfile.TemporaryDirectory(prefix="mlenv-client-") as folder:
            client = Client(self.server, Path(folder), self.key, "ada")
            place = f"ada/{PROJECT}/{job.name}-{job.uid}-ckpt"
            found: list[Raw] = client.run(_VERSIONS, place, WANDB_BASE_URL=self.server.url)
        return found

    def config(self, job: Job) -> Raw:
        """What the job's run says of the platform, as the real client reads it."""
        with tempfile.TemporaryDirectory(prefix="mlenv-client-") as folder:
            client = Client(self.server, Path(folder), self.key, "ada")
            found: Raw = client.run(_CONFIG, f"ada/{PROJECT}/{job.uid}", WANDB_BASE_URL=self.server.url)
        return found

    def until_uploaded(self, job: Job, step: int) -> Raw:
        """What status.checkpoint says, once the store has this step, or a later one."""

        def holds(status: Raw) -> bool:
            return (uploaded_of(status).get("step") or -1) >= step

        found: Raw = job.until(holds, f"checkpoint of step {step} in the store", PATIENCE)["checkpoint"]
        return found

    def until_degraded(self, job: Job, reason: str) -> str:
        """What CheckpointDegraded says, once it is true for this reason."""
        return job.until_says("CheckpointDegraded", "True", reason, PATIENCE)

    def until_well(self, job: Job) -> None:
        """CheckpointDegraded is false."""
        job.until(
            lambda status: condition(status, "CheckpointDegraded").get("status") == "False",
            "end of CheckpointDegraded",
            PATIENCE,
        )

    def kill_pods(self, job: Job) -> None:
        """All at once, with their folders: no grace, and nothing that runs on unseen."""
        pods = [one for one in job.pods() if "deletionTimestamp" not in one["metadata"]]
        now = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        processes = [one for pod in pods for one in kills.of_pod(pod["metadata"]["uid"])]
        for pod in pods:
            path = f"/api/v1/namespaces/{self.ns.name}/pods/{pod['metadata']['name']}"
            self.ns.api.call("DELETE", path, now)
        for one in processes:
            one.kill()

    def processes(self, job: Job, index: int) -> list[kills.Process]:
        """Those of the pod in a slot."""
        return kills.of_pod(job.pods()[index]["metadata"]["uid"])

    def zombies(self, job: Job, index: int) -> list[int]:
        """Processes of a pod that have ended, and that nobody has asked how."""
        found = []
        for one in self.processes(job, index):
            with suppress(OSError):
                text = Path(f"/proc/{one.pid}/status").read_text()
                found += [one.pid] if "State:\tZ" in text else []
        return found

    def until_line(self, job: Job, words: str, container: str = "trainer", index: int = 0) -> str:
        """What a container has printed, once these words are in it."""
        found = wait_until(lambda: words in self.logs(job, container, index), seconds=PATIENCE, interval=0.5)
        text = self.logs(job, container, index)
        assert found, f"{job.name}: {container} {index} never said {words!r}:\n{text}"
        return text

    def logs(self, job: Job, container: str, index: int = 0) -> str:
        """What it has printed; nothing while it is not there."""
        alive = [one for one in job.pods() if one["metadata"]["annotations"]["mlenv.io/index"] == str(index)]
        if not alive:
            return ""
        name = alive[-1]["metadata"]["name"]
        with suppress(Exception):
            path = f"/api/v1/namespaces/{self.ns.name}/pods/{name}/log?container={container}"
            return self.ns.api.text("GET", path)
        return ""

    def losses_differ(self, job: Job, other: Job) -> list[tuple[int, int]]:
        """(rank, step) at which a job lost something else than another, also where it was done again."""
        expected = self.ground.diary(other).losses()
        done = [((one["rank"], one["step"]), one["loss"]) for one in self.ground.diary(job).steps]
        return sorted({at for at, loss in done if expected.get(at) != loss})


def uploaded_of(status: Raw) -> Raw:
    """status.checkpoint.uploaded; empty without one."""
    return (status.get("checkpoint") or {}).get("uploaded") or {}


@contextmanager
def tracked(cluster: Cluster) -> Iterator[Tracked]:
    """A server, a user with a key, a namespace with the Secret."""
    with tempfile.TemporaryDirectory(prefix="mlenv-tracked-") as folder:
        home = Path(folder)
        (home / "hunt").mkdir()
        home.chmod(0o755)
        server = Server(home / "wandb", host=str(cluster.layout.host_address)).start()
        history = History()
        ns = Namespace(cluster, f"courier-{secrets.token_hex(3)}", seen=history.see)
        try:
            key = server.add_user("ada")
            made = Tracked(Ground(ns, home / "hunt", history), server, key, server.url)
            made.secret(key)
            yield made
        finally:
            if os.environ.get("MLENV_KEEP") != "1":
                ns.close()
            server.stop()
