"""Observe, plan, then move or act: the shell around the core, against an API server in memory."""

from __future__ import annotations

import asyncio
import gc
import socket
from datetime import timedelta
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

import pytest

from mlenv_api import names
from mlenv_api.protocol import Beat, LauncherPhase, Origin
from mlenv_operator.adapters.beats import Launchers
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.nudges import Nudges
from mlenv_operator.adapters.observe import Observer
from mlenv_operator.adapters.reconciler import Reconciler
from mlenv_operator.adapters.recorder import Recorder
from mlenv_operator.adapters.sweep import Sweep
from mlenv_operator.adapters.tokens import PodIdentity
from mlenv_operator.core.world import CoreSettings, JobKey
from mlenv_operator.kube import errors
from mlenv_operator.kube.resources import PODS, TRAINING_JOBS
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import WatchEvent

from .api import MemoryApi, empty_state

if TYPE_CHECKING:
    from mlenv_operator.kube.client import Client
    from mlenv_operator.runtime.lease import Lease

KEY = JobKey("team", "ranker")


class Queue:
    def __init__(self) -> None:
        self.now: list[JobKey] = []
        self.later: list[tuple[JobKey, float]] = []

    def add(self, key: JobKey) -> None:
        self.now.append(key)

    def add_after(self, key: JobKey, seconds: float) -> None:
        self.later.append((key, seconds))


class Shell:
    """Everything but the watches; ``see`` plays them."""

    def __init__(self) -> None:
        self.api = MemoryApi()
        self.clock = FakeClock()
        client = cast("Client", self.api)
        self.state = empty_state(self.clock, self.api)
        self.queue = Queue()
        self.observer = observer = Observer(self.state, operator_urls=("http://10.0.0.1:8080",))
        recorder = Recorder(client, self.clock, "operator-0")
        self.metrics = Metrics()
        self.nudges = Nudges(self.state, self.metrics)
        self.reconciler = Reconciler(client, self.queue, self.state, observer, recorder, nudges=self.nudges)
        self.sweep = Sweep(client, self.queue, self.state, interval_s=60)

    def submit(self, nodes: int = 2, **spec: Any) -> dict[str, Any]:
        trainer = {"image": "img:1", "command": ["train"], "numNodes": nodes}
        raw = self.api.add(
            TRAINING_JOBS,
            {
                "apiVersion": names.API_VERSION,
                "kind": names.TRAINING_JOB,
                "metadata": {
                    "namespace": "team",
                    "name": "ranker",
                    "uid": "u1",
                    "generation": 1,
                    "creationTimestamp": "2030-01-01T00:00:00Z",
                },
                "spec": {"trainer": trainer, "launcher": "None", **spec},
            },
        )
        self.state.jobs.put(raw)
        return raw

    def see(self) -> None:
        """The watches catch up."""
        for (plural, _, _), raw in self.api.objects.items():
            if plural == "pods":
                self.state.caches.pods._feed(WatchEvent("ADDED", raw))
            if plural == "services":
                self.state.caches.services._feed(WatchEvent("ADDED", raw))

    async def settle(self, most: int = 10) -> list[str]:
        results = []
        for _ in range(most):
            results.append(await self.reconciler.reconcile(KEY))
            if results[-1] == "unchanged":
                return results
        return results

    async def look(self, most: int = 40) -> None:
        """As long as somebody asks for it at once."""
        self.queue.now = [KEY]
        for _ in range(most):
            if not self.queue.now:
                return
            self.queue.now.clear()
            await self.reconciler.reconcile(KEY)

    def edit(self, **spec: Any) -> None:
        raw = self.api.objects["trainingjobs", "team", "ranker"]
        metadata = {**raw["metadata"], "generation": raw["metadata"]["generation"] + 1}
        changed = {**raw, "metadata": metadata, "spec": {**raw["spec"], **spec}}
        self.state.jobs.put(self.api.add(TRAINING_JOBS, changed))

    def provide_environment(self, **more: Any) -> None:
        metadata = {"name": "torch", "uid": "e1", "generation": 1}
        raw = {"metadata": metadata, "spec": {"image": "torch:1", **more}}
        self.state.caches.cluster_environments._feed(WatchEvent("ADDED", raw))

    def stored(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self.api.objects["trainingjobs", "team", "ranker"].get("status") or {})


@pytest.fixture
def shell() -> Shell:
    return Shell()


def pods(shell: Shell) -> list[str]:
    return sorted(name for verb, plural, name in shell.api.writes if (verb, plural) == ("create", "pods"))


async def test_a_move_is_stored_before_anything_is_created(shell: Shell) -> None:
    shell.submit()
    assert await shell.reconciler.reconcile(KEY) == "moved"
    assert {plural for _, plural, _ in shell.api.writes} <= {"trainingjobs", "events"}
    assert shell.stored()["attempt"]["state"] == "Assembling"
    await shell.settle()
    assert pods(shell) == ["ranker-0-0", "ranker-1-0"]


async def test_own_writes_are_not_repeated_before_the_watch_shows_them(shell: Shell) -> None:
    shell.submit()
    await shell.settle()
    first = len(shell.api.writes)
    await shell.settle()
    assert len(shell.api.writes) == first
    assert pods(shell) == ["ranker-0-0", "ranker-1-0"]


async def test_numbers_wait_after_a_move_too(shell: Shell) -> None:
    shell.submit()
    await shell.look()
    assert [plural for verb, plural, _ in shell.api.writes if verb == "status"] == ["trainingjobs"]
    await shell.clock.advance(6)
    await shell.look()
    assert "0 of 2 pods ready" in str(shell.stored()["conditions"])


async def test_a_conflict_starts_over_with_what_is_stored(shell: Shell) -> None:
    raw = shell.submit()
    shell.api.add(TRAINING_JOBS, raw | {"spec": raw["spec"] | {"suspend": True}})  # the watch has not told
    assert await shell.reconciler.reconcile(KEY) == "conflict"
    assert shell.queue.now == [KEY]
    await shell.settle()
    assert shell.stored()["phase"] == "Suspended"
    assert pods(shell) == []


async def test_a_write_whose_answer_was_lost_is_found_again(shell: Shell) -> None:
    shell.submit(nodes=1)
    await shell.reconciler.reconcile(KEY)
    create = shell.api.create

    async def lost(resource: Any, body: dict[str, Any]) -> dict[str, Any]:
        await create(resource, body)
        raise errors.ServerTimeout("no answer", code=0)

    shell.api.create = lost  # type: ignore[method-assign]
    with pytest.raises(errors.Transient):
        await shell.reconciler.reconcile(KEY)
    shell.api.create = create  # type: ignore[method-assign]
    shell.state.overlay.expire()
    await shell.settle()
    assert [name for kind, _, name in shell.api.objects if kind == "pods"] == ["ranker-0-0"]


async def test_a_stranger_under_our_name_is_told_and_left_alone(shell: Shell) -> None:
    stranger = {"metadata": {"namespace": "team", "name": "ranker-0-0", "uid": "other"}, "spec": {}}
    shell.api.add(PODS, stranger)
    shell.submit(nodes=1)
    await shell.settle()
    stalled = next(one for one in shell.stored()["conditions"] if one["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "NameConflict")
    assert shell.api.objects["pods", "team", "ranker-0-0"]["metadata"]["uid"] == "other"
    tries = [write for write in shell.api.writes if write[0] == "create"]
    await shell.settle()
    assert [write for write in shell.api.writes if write[0] == "create"] == tries, "no spinning"


async def test_after_a_refusal_the_rest_of_the_gang_is_not_tried(shell: Shell) -> None:
    asked: list[str] = []

    def full(verb: str, plural: str, name: str) -> Exception | None:
        if (verb, plural) != ("create", "pods"):
            return None
        asked.append(name)
        return errors.RejectedByPolicy("exceeded quota: cpu", policy=errors.Policy.QUOTA, code=403)

    shell.api.fails = full
    shell.submit(nodes=200)
    await shell.settle()
    assert len(asked) < 40
    ready = next(one for one in shell.stored()["conditions"] if one["type"] == "PodsReady")
    assert ready["reason"] == "QuotaExceeded"
    assert "exceeded quota: cpu" in ready["message"]


@pytest.mark.parametrize("what", [("create", "controllerrevisions"), ("create", "pods"), ("delete", "pods")])
async def test_what_is_refused_again_and_again_is_not_asked_for_all_the_time(
    shell: Shell, what: tuple[str, str]
) -> None:
    asked: list[str] = []

    def refuse(verb: str, plural: str, name: str) -> Exception | None:
        if (verb, plural) != what:
            return None
        asked.append(name)
        return errors.RejectedByPolicy("no", policy=errors.Policy.WEBHOOK, code=403)

    shell.api.fails = refuse
    shell.provide_environment()
    shell.submit(nodes=1, environmentRef={"name": "torch"})
    await shell.look()
    shell.see()
    shell.edit(suspend=True)
    await shell.look()
    assert asked
    assert len(asked) <= 4


async def test_the_correction_of_an_environment_is_told_to_those_that_cannot_start_in_it(
    shell: Shell,
) -> None:
    def awaiting() -> set[JobKey]:
        return shell.observer.awaiting(names.CLUSTER_ENVIRONMENT, "", "torch")

    shell.provide_environment(env=[{"name": "RANK", "value": "1"}])
    shell.submit(nodes=1, environmentRef={"name": "torch"})
    await shell.look()
    stalled = next(one for one in shell.stored()["conditions"] if one["type"] == "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "InvalidSpec")
    assert awaiting() == {KEY}
    shell.provide_environment()
    await shell.look()
    assert shell.stored()["attempt"]["state"] == "Assembling"
    assert awaiting() == set()


async def test_what_was_refused_is_tried_at_once_after_a_suspension(shell: Shell) -> None:
    def refuse(verb: str, plural: str, name: str) -> Exception | None:
        refused = shell.stored().get("attempt", {}).get("number", 1) == 1 and (verb, plural) == (
            "create",
            "pods",
        )
        return errors.RejectedByPolicy(name, policy=errors.Policy.WEBHOOK, code=403) if refused else None

    shell.api.fails = refuse
    shell.submit(nodes=1)
    await shell.look()
    assert pods(shell) == []
    shell.edit(suspend=True)
    await shell.look()
    assert shell.stored()["phase"] == "Suspended"
    shell.edit(suspend=False)
    await shell.look()
    assert pods(shell) == ["ranker-0-1"]


async def test_a_deletion_that_no_watch_told_is_found_by_the_sweep(shell: Shell) -> None:
    shell.submit()
    await shell.settle()
    shell.see()
    del shell.api.objects["trainingjobs", "team", "ranker"]
    await shell.sweep.once()
    assert shell.state.jobs.get(KEY) is None
    assert KEY in shell.queue.now


async def test_pods_of_a_job_that_is_gone_lose_our_finalizer_once_they_stopped(shell: Shell) -> None:
    shell.submit(nodes=1)
    await shell.settle()
    pod = shell.api.objects["pods", "team", "ranker-0-0"]
    assert pod["metadata"]["finalizers"] == [names.ACCOUNTED_FINALIZER]
    pod["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    pod["status"] = {"phase": "Succeeded"}
    shell.see()
    del shell.api.objects["trainingjobs", "team", "ranker"]
    shell.state.jobs.drop(KEY, "u1")
    await shell.settle()
    assert ("patch", "pods", "ranker-0-0") in shell.api.writes


def holders(*roots: object) -> list[str]:
    """What has the job for a key, of all that is to be reached from here."""
    seen: set[int] = set()
    todo, found = list(roots), []
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        found += [repr(one)[:200]] if isinstance(one, dict | set) and KEY in one else []
        todo += gc.get_referents(one)
    return found


async def test_nothing_is_kept_of_a_job_that_is_gone(shell: Shell) -> None:
    """Jobs come and go by the hundred thousand."""
    shell.submit()
    await shell.settle()
    assert holders(shell.state, shell.reconciler)
    shell.api.objects.clear()
    shell.state.jobs.drop(KEY, "u1")
    await shell.settle()
    shell.clock.jump(60)
    await (
        shell.sweep.once()
    )  # pods that were made, and that no watch has told of, are believed in for a while
    assert holders(shell.state, shell.reconciler) == []


async def test_the_service_is_made_once_and_again_when_somebody_deletes_it(shell: Shell) -> None:
    shell.submit(nodes=2)
    await shell.settle()
    shell.see()
    await shell.settle()
    del shell.api.objects["services", "team", "ranker"]
    shell.state.caches.services._feed(
        WatchEvent("DELETED", {"metadata": {"namespace": "team", "name": "ranker", "resourceVersion": "9"}})
    )
    shell.clock.jump(60)
    await shell.settle()
    assert ("services", "team", "ranker") in shell.api.objects


async def test_a_new_leader_reads_all_jobs_and_looks_at_each(shell: Shell) -> None:
    raw = shell.submit()
    shell.state.jobs.put(raw | {"metadata": raw["metadata"] | {"name": "gone", "uid": "u9"}})
    shell.api.add(TRAINING_JOBS, raw | {"metadata": raw["metadata"] | {"name": "other", "uid": "u2"}})
    await shell.sweep.read_jobs()
    assert set(shell.queue.now) == {KEY, JobKey("team", "other"), JobKey("team", "gone")}
    assert shell.state.jobs.get(JobKey("team", "gone")) is None


class Pod:
    """A launcher's ear, on a real socket."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((host, 0))
        self.socket.settimeout(30)
        self.port = self.socket.getsockname()[1]

    def silent(self) -> bool:
        self.socket.settimeout(0)
        try:
            self.socket.recv(1)
        except BlockingIOError:
            return True
        return False


async def gang(shell: Shell, *hosts: str, **spec: Any) -> list[str]:
    """Pods that run at these addresses; their uids."""
    shell.submit(nodes=len(hosts), **spec)
    await shell.settle()
    uids = []
    for index, host in enumerate(hosts):
        raw = shell.api.objects["pods", "team", f"ranker-{index}-0"]
        status = {"phase": "Running", "podIP": host}
        shell.state.caches.pods._feed(WatchEvent("ADDED", {**raw, "status": status}))
        uids.append(raw["metadata"]["uid"])
    return uids


def hear(shell: Shell, uid: str, port: int | None) -> None:
    beat = Beat(protocol=1, nudge_port=port, time=shell.clock.now())
    shell.state.beats.record(uid, beat, timedelta(minutes=1))


def nudged(shell: Shell, result: str) -> float:
    return shell.metrics.registry.get_sample_value("mlenv_operator_nudges_total", {"result": result}) or 0.0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_stored_move_nudges_the_launchers_that_listen(shell: Shell, host: str) -> None:
    uids = await gang(shell, *[host] * 4)
    ears = [Pod(host) for _ in uids]
    for uid, ear in zip(uids, ears, strict=True):
        hear(shell, uid, ear.port)
    hear(shell, uids[1], None)  # an older launcher
    finished = {
        **shell.api.objects["pods", "team", "ranker-2-0"],
        "status": {"phase": "Failed", "podIP": host},
    }
    shell.state.caches.pods._feed(WatchEvent("MODIFIED", finished))
    before = nudged(shell, "sent")
    shell.edit(suspend=True)
    with shell.state.beats.held(uids[3]):  # its answer comes by itself
        assert await shell.reconciler.reconcile(KEY) == "moved"
    assert ears[0].socket.recv(1) == b""
    assert nudged(shell, "sent") == before + 1
    assert all(ear.silent() for ear in ears)


async def test_a_nudge_that_cannot_be_sent_holds_nothing_up(shell: Shell) -> None:
    for uid in await gang(shell, "192.0.2.300", "not-an-address.invalid:"):
        hear(shell, uid, 4711)
    shell.edit(suspend=True)
    assert await shell.reconciler.reconcile(KEY) == "moved"
    assert (nudged(shell, "sent"), nudged(shell, "failed")) == (0, 2)


async def test_what_does_not_move_nudges_nobody(shell: Shell) -> None:
    uids = await gang(shell, "127.0.0.1")
    await shell.settle()
    ear = Pod("127.0.0.1")
    hear(shell, uids[0], ear.port)
    assert await shell.reconciler.reconcile(KEY) != "moved"
    assert nudged(shell, "sent") == 0
    assert ear.silent()


async def test_a_checkpoint_that_is_ordered_nudges_the_launchers(shell: Shell) -> None:
    (uid,) = await gang(shell, "127.0.0.1", launcher="MLEnv")
    await shell.settle()
    ear = Pod("127.0.0.1")
    hear(shell, uid, ear.port)
    await shell.settle()
    before = nudged(shell, "sent")
    raw = shell.api.objects["trainingjobs", "team", "ranker"]
    raw["metadata"]["annotations"] = {names.ANNOTATION_CHECKPOINT: "2030-01-01T00:00:00Z"}
    shell.edit()
    await shell.settle()
    stored = shell.api.objects["trainingjobs", "team", "ranker"]["status"]
    assert stored["checkpoint"]["request"] == {"requestedAt": "2030-01-01T00:00:00Z", "message": ""}
    assert ear.socket.recv(1) == b""
    assert nudged(shell, "sent") == before + 1


class Ours:
    """A Lease that is surely ours."""

    transitions = 5
    leader_address = None

    def surely_ours(self, _now: float) -> bool:
        return True


async def test_the_answer_to_a_proposal_is_given_once_it_is_stored(shell: Shell) -> None:
    (uid,) = await gang(shell, "10.0.0.7", launcher="MLEnv")
    launchers = Launchers(cast("Lease", Ours()), shell.queue, shell.state, CoreSettings())
    launchers.leading = True
    who = PodIdentity("team", "ranker-0-0", uid, "default")
    shell.state.beats.record(
        uid, Beat(protocol=1, attempt=1, port=29400, time=shell.clock.now()), timedelta(minutes=1)
    )
    assert await shell.reconciler.reconcile(KEY) == "moved"
    assert shell.stored()["attempt"]["state"] == "Running"
    proposal = Beat(
        protocol=1,
        attempt=1,
        port=29400,
        phase=LauncherPhase.RUNNING,
        origin=Origin(),
        time=shell.clock.now(),
    )
    answered = asyncio.create_task(launchers.beat(who, proposal))
    await asyncio.sleep(0)  # it runs until it waits
    assert shell.state.beats.is_held(uid)
    shell.api.fails = lambda verb, *_: errors.Internal("etcd", code=500) if verb == "status" else None
    with pytest.raises(errors.Internal):
        await shell.reconciler.reconcile(KEY)
    assert not answered.done(), "what could not be stored is told to nobody"
    shell.api.fails = lambda *_: None
    assert await shell.reconciler.reconcile(KEY) == "moved"
    assert (await answered).origin == Origin()
    assert shell.stored()["attempt"]["origin"] == {}
