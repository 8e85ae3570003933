"""A platform whose pods have couriers and no volume: what a W&B server has is all that outlives a pod."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from operated import Platform, family, kill
from wandb_server import Client

from mlenv.courier import pages
from mlenv_api import names
from mlenv_operator.core.project import project_pod

if TYPE_CHECKING:
    from rig import Launcher, Rig
    from wandb_server import Server as Wandb

    from mlenv_api.protocol import Answer, Beat

RESTARTS: Final = 10_000
"""Every kill of a rank counts as a fault of the program."""
_VERSIONS: Final = """\
    api, found = wandb.Api(), []
    for place, kind in json.loads(sys.argv[1]):
        if api.artifact_collection_exists(place, kind):
            found += [[one.name, one.metadata["node"], one.metadata["step"], one.metadata["digest"],
                       one.metadata.get("verified") is True] for one in api.artifacts(kind, place)]
    tell(found)
"""


class Version(NamedTuple):
    """What the server has of one node's part of a checkpoint; a head is that of node 0."""

    name: str
    node: int
    step: int
    digest: str
    verified: bool


class Store:
    """A W&B server with one user, each job in a project of its own: they all have the same UID."""

    def __init__(self, server: Wandb, folder: Path) -> None:
        self.server = server
        self.key = server.add_user("ada")
        self.key_file = folder / "api-key"
        self.key_file.write_text(self.key)

    def spec(self, project: str) -> dict[str, Any]:
        """What a job says of it."""
        where = {"entity": "ada", "project": project, "baseURL": f"http://127.0.0.1:{self.server.port}"}
        return {"wandb": {**where, "apiKeySecretRef": {"name": "wandb", "key": "api-key"}}}

    def versions(self, job: str, uid: str) -> list[Version]:
        """All that it has of a job, as the real client lists it."""
        head = f"ada/{job}/{job}-{uid}-ckpt"
        places = [(head, "checkpoint"), (f"{head}.parts", "checkpoint-part")]
        with tempfile.TemporaryDirectory(prefix="mlenv-client-") as folder:
            client = Client(self.server, Path(folder), self.key, "ada")
            found = client.run(_VERSIONS, json.dumps(places))
        return [Version(*one) for one in found]


class Carried(Platform):
    """Its kubelet runs a courier beside each launcher, and starts it again when it ends before that."""

    def __init__(self, rig: Rig, store: Store, name: str, program: list[str], **more: Any) -> None:
        self.store = store
        self.couriers: dict[str, subprocess.Popen[bytes]] = {}
        self.origins: dict[int, int] = {}
        """Steps that attempts run from, as they were recorded; 0: a fresh start."""
        self._ending: set[str] = set()
        """Pods whose couriers were told to end, or ended with all else."""
        self._lost: set[str] = set()
        super().__init__(rig, name, program, **more)

    def keeping(self, name: str) -> dict[str, Any]:
        """In the store, and on each pod's own disk."""
        return {"tracking": self.store.spec(name), "failurePolicy": {"maxRestarts": RESTARTS}}

    def paths(self, pod: str, env: dict[str, str]) -> dict[str, str]:
        """All below the pod's own folder."""
        del env
        return {names.ENV_COURIER: str(self.rig.folder / pod / "courier")}

    @property
    def uploaded(self) -> int:
        """The step that the job's status shows as stored; 0: none."""
        record = self.status.checkpoint
        return record.uploaded.step if record and record.uploaded else 0

    @property
    def stored(self) -> int:
        """The step that the first pod's courier says is stored: the status shows it seconds later."""
        pods = self.living()
        folder = self.launchers[pods[0]].run_dir / "courier" if pods else Path("/nowhere")
        told = pages.read(folder, pages.REPORT, pages.Report)
        return max(self.uploaded, told.uploaded.step if told and told.uploaded else 0)

    def hear(self, pod: str, beat: Beat) -> Answer:
        """As any operator; what attempts run from is noted."""
        found = super().hear(pod, beat)
        now = self.attempt
        if now is not None and now.origin is not None:
            step = now.origin.checkpoint.step if now.origin.checkpoint else 0
            self.origins.setdefault(now.number, step)
        return found

    # -- what befalls pods

    def living(self) -> list[str]:
        """Names of pods whose launchers run, in the order of their nodes."""
        with self._lock:
            found = [one for one, it in self.launchers.items() if it.process.poll() is None]
            views = {one: project_pod(self.cluster.pods[one]) for one in found if one in self.cluster.pods}
        return sorted(views, key=lambda one: views[one].index if views[one] else 0)

    def kill_courier(self, pod: str) -> bool:
        """With its client; whether there was one."""
        with self._lock:
            found = self.couriers.get(pod)
            if found is None or found.poll() is not None:
                return False
            _kill(found)
            return True

    def lose(self, pod: str) -> None:
        """A pod with all that runs in it, and its disk."""
        with self._lock:
            self._ending.add(pod)
            self._lost.add(pod)
            launcher = self.launchers[pod]
            if launcher.process.poll() is None:
                kill(launcher)
            self.kill_courier(pod)
            shutil.rmtree(launcher.run_dir, ignore_errors=True)

    def lose_all(self) -> None:
        """Every disk there is, also of pods that have ended."""
        with self._lock:
            for pod in self.launchers.keys() - self._lost:
                self.lose(pod)

    def close(self) -> None:
        """End the pods, and their couriers."""
        super().close()
        for one in self.couriers.values():
            if one.poll() is None:
                _kill(one)

    # -- the kubelet

    def _tend(self, name: str) -> None:
        super()._tend(name)
        launcher = self.launchers.get(name)
        if launcher is None:
            return
        courier = self.couriers.get(name)
        if launcher.process.poll() is None and name not in self._ending:
            if courier is None or courier.poll() is not None:
                self.couriers[name] = self._courier(name, launcher)
        elif courier is not None and courier.poll() is None and name not in self._ending:
            self._ending.add(name)
            courier.terminate()

    def _courier(self, name: str, launcher: Launcher) -> subprocess.Popen[bytes]:
        pod = self.cluster.pods[name]["spec"]
        container = next(one for one in pod["initContainers"] if one["name"] == names.COURIER_CONTAINER)
        told = {one["name"]: one["value"] for one in container["env"] if "value" in one}
        own = {
            names.ENV_COURIER: str(launcher.run_dir / "courier"),
            names.ENV_WANDB_KEY_FILE: str(self.store.key_file),
            names.ENV_POD_NAME: name,
        }
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("MLENV_", "WANDB"))}
        with (self.rig.folder / f"{name}.courier.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mlenv.courier"],
                env={**clean, **told, "HOME": str(launcher.run_dir), **own},
                stderr=log,
            )


def _kill(courier: subprocess.Popen[bytes]) -> None:
    """With its client, which is in a session of its own, and the client's own processes."""
    for pid in family(courier.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    courier.wait()
