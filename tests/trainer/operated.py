"""A job under the operator's own rules, whose pods are real launchers on this machine.

The API server is the one of the transition tests, in memory. What is decided is decided by the core
(`plan`, `answer`) from what is stored there, and every world and plan is checked for contradictions. The
kubelet starts a launcher for each pod with the environment of its manifest, tells how it ended, and ends it
when its pod is deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fake_cluster import FakeCluster
from fake_operator import FakeOperator, restarted
from rig import Server, until
from runs import check

from mlenv_api import names
from mlenv_api.protocol import Answer, Order
from mlenv_api.trainingjob import AttemptState
from mlenv_operator.core.answers import answer, matters
from mlenv_operator.core.project import parse_job, project_pod
from mlenv_operator.core.world import BeatView, CoreSettings

if TYPE_CHECKING:
    from rig import Launcher, Rig

    from mlenv_api.protocol import Beat
    from mlenv_api.trainingjob import Attempt, TrainingJobStatus

SETTINGS: Final = CoreSettings(
    beat_assembling_s=0.1, beat_running_s=0.1, quick_backoff_first_s=0.0, quick_backoff_max_s=0.0
)
"""Nobody is nudged here, so launchers ask often; and an attempt that ended soon is followed at once."""
TICK: Final = 0.03
IDLE: Final = 10
"""The operator looks again after so many ticks in which nothing happened."""
OURS: Final = (
    names.ENV_RUN_DIR,
    names.ENV_OPERATOR_URLS,
    names.ENV_TOKEN_FILE,
    names.ENV_SPOOL,
    names.ENV_COURIER,
)
"""What a manifest says of a pod's own file system and network."""


class Platform:
    """API server, operator and kubelet of one job."""

    def __init__(
        self, rig: Rig, name: str, program: list[str], *, nodes: int, procs: int = 1, **env: str
    ) -> None:
        self.rig, self.program, self.env = rig, program, env
        self.errors: list[str] = []
        self.launchers: dict[str, Launcher] = {}
        self._told: set[str] = set()
        """UIDs of pods whose launchers were told to end."""
        trainer = {"image": "img:1", "command": ["train.py"], "numNodes": nodes, "numProcPerNode": procs}
        self.cluster = FakeCluster({"trainer": trainer, **self.keeping(name)}, name=name)
        self._away = False
        self._seen: Any = None
        """The job that was reconciled last; None: something else has changed."""
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._now()
        self.operator = FakeOperator(self.cluster, settings=SETTINGS, check=check)
        self.voice = Voice(self)
        rig.servers.append(self.voice)
        self._kubelet = threading.Thread(target=self._live, daemon=True)
        self._kubelet.start()

    def keeping(self, name: str) -> dict[str, Any]:
        """What the spec says of where checkpoints are kept: on a volume that outlives pods."""
        self.spool = self.rig.folder / f"{name}-spool"
        self.spool.mkdir()
        return {"checkpoint": {"spool": {"volumeClaimName": "claim"}}}

    def close(self) -> None:
        """End the pods."""
        self._closed.set()
        self._kubelet.join()
        for launcher in self.launchers.values():
            if launcher.process.poll() is None:
                kill(launcher)
        self.voice.close()

    # -- what tests look at

    @property
    def status(self) -> TrainingJobStatus:
        """As it is stored."""
        with self._lock:
            assert self.cluster.job is not None
            return parse_job(self.cluster.job).status

    @property
    def attempt(self) -> Attempt | None:
        """The stored one."""
        return self.status.attempt

    def attempt_in(self, state: AttemptState, *, least: int = 1) -> Attempt:
        """The stored attempt, once its number is at least so much, and it is in this state."""

        def there() -> Attempt | None:
            assert self.errors == []
            now = self.attempt
            return now if now and now.state is state and now.number >= least else None

        found: Attempt = until(
            there, f"attempt {least} or later to be {state}; it is {self.attempt}", pause=TICK
        )
        return found

    def next(self, number: int) -> int:
        """The number of the attempt after this one, once there is one."""

        def there() -> int:
            assert self.errors == []
            return self.attempt.number if self.attempt and self.attempt.number > number else 0

        return int(until(there, f"an attempt after {number}", pause=TICK))

    # -- what people do, and what befalls a cluster

    def resize(self, nodes: int) -> None:
        """Suspend, edit, resume."""
        self._edit(suspend=True)
        self.attempt_in(AttemptState.SUSPENDED)
        assert self.cluster.job is not None
        self._edit(trainer={**self.cluster.job["spec"]["trainer"], "numNodes": nodes})
        self._edit(suspend=False)

    def _edit(self, **changes: Any) -> None:
        with self._lock:
            self.cluster.edit(**changes)

    def lose_operator(self) -> None:
        """It goes away with all it had heard, and the next one finds what was stored."""
        with self._lock:
            self._away = True
        port = self.voice.port
        self.voice.close()
        self.voice = Voice(self, port)
        self.rig.servers.append(self.voice)
        with self._lock:
            self.operator = restarted(self.operator)
            self._away = False

    def kill_pod(self, index: int) -> None:
        """With all that runs in it."""
        kill(self._launcher(index))

    def _launcher(self, index: int) -> Launcher:
        return self.launchers[names.pod_name(self.name, index, self.status.incarnations[index])]

    @property
    def name(self) -> str:
        """The job's."""
        assert self.cluster.job is not None
        return str(self.cluster.job["metadata"]["name"])

    # -- the operator

    def hear(self, pod: str, beat: Beat) -> Answer:
        """One launcher beats, and is answered from what is stored after that."""
        with self._lock:
            self._now()
            self.operator.sync()
            if pod not in self.cluster.pods:
                return Answer(term=self.operator.term, attempt=0, order=Order.STOP, next_beat_seconds=1.0)
            view = project_pod(self.cluster.pods[pod])
            assert view is not None
            before = self.operator.beats.get(view.uid)
            heard = self.operator.beats[view.uid] = BeatView(beat, self.cluster.now)
            if matters(before, beat):
                self._reconcile()
            assert self.operator.job is not None
            job = parse_job(self.operator.job)
            return answer(job, view, heard, self.operator.term, settings=SETTINGS)

    def _reconcile(self) -> None:
        if self._away:
            return
        try:
            self.operator.settle()
        except AssertionError as error:
            self.errors.append(str(error))

    def _now(self) -> None:
        self.cluster.now = datetime.now(UTC)

    # -- the kubelet

    def _live(self) -> None:
        for tick in itertools.count():
            if self._closed.wait(TICK):
                return
            with self._lock:
                self._now()
                for name in list(self.cluster.pods):
                    self._tend(name)
                if self.cluster.job is not self._seen or tick % IDLE == 0:
                    self._reconcile()
                    self._seen = self.cluster.job

    def _tend(self, name: str) -> None:
        """What has to be done for a pod; the operator hears of it."""
        pod, launcher = self.cluster.pods[name], self.launchers.get(name)
        doomed = bool(pod["metadata"].get("deletionTimestamp"))
        if launcher is None:
            if not doomed:
                self._start(name)
            return
        code = launcher.process.poll()
        if code is not None:
            if pod["status"]["phase"] == "Running" or doomed:
                self._seen = None
            self.cluster.end_pod(name, 128 - code if code < 0 else code)
            if doomed:
                self.cluster.finish_deletion(name)
        elif doomed and pod["metadata"]["uid"] not in self._told:
            self._told.add(pod["metadata"]["uid"])
            launcher.process.terminate()

    def _start(self, name: str) -> None:
        pod, self._seen = self.cluster.pods[name], None
        env = {one["name"]: one["value"] for one in pod["spec"]["containers"][0]["env"] if "value" in one}
        told = {key: value for key, value in env.items() if key not in OURS}
        self.launchers[name] = self.rig.launch(
            *self.program,
            urls=self.voice.url,
            pod=name,
            way="fork",
            **self.env,
            **told,
            **self.paths(name, env),
        )
        self.cluster.run_pod(name, f"n{1 + int(env[names.ENV_NODE_INDEX])}")
        self.cluster.set_pod_status(name, podIP="127.0.0.1")

    def paths(self, pod: str, env: dict[str, str]) -> dict[str, str]:
        """Where on this machine is what a manifest says of a pod's file system."""
        del pod
        return {names.ENV_SPOOL: str(self.spool / env[names.ENV_JOB_UID])}


class Voice(Server):
    """The operator's end of the beats."""

    def __init__(self, platform: Platform, port: int = 0) -> None:
        self.platform = platform
        super().__init__(port)

    def decide(self, pod: str, beat: Beat) -> Answer:
        """As it is stored."""
        return self.platform.hear(pod, beat)


def kill(launcher: Launcher) -> None:
    """With all that runs in its pod, as a kubelet does."""
    for pid in family(launcher.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    launcher.process.wait()


def family(pid: int) -> list[int]:
    """A process, its children, theirs, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found
