"""Whatever happens to pods, nodes, jobs and operators, charged is what was held, to the nanodollar.

Objects live in an API server in memory. Operators watch it, break off, list it anew, are killed before they
stored what they saw, and are away while pods end and jobs are deleted. What really happened is written down
apart, and the oracle says what it cost.
"""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from money_oracle import trace
from money_traces import rows_of
from stored_hours import Traced, stored, told_to_oracle
from worlds import raw_job, raw_pod, stamp

from mlenv_operator.adapters.bookkeeper import Bookkeeper
from mlenv_operator.adapters.observe import Observer
from mlenv_operator.core.converge import release
from mlenv_operator.core.world import JobKey
from mlenv_operator.cost.facts import HOUR, Pod
from mlenv_operator.cost.merge import merged
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.prices import PriceBook
from mlenv_operator.ledger.ledger import open_ledger
from mlenv_operator.ledger.writer import Writer
from mlenv_operator.runtime.clock import FakeClock
from mlenv_operator.runtime.reflector import ListEnded, ListPage, ListStarted, WatchEvent

from .api import empty_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from mlenv_operator.ledger.ledger import Ledger

Raw = dict[str, Any]
PRICE = trace.Price("", "aws", "big", "on-demand", 0, None, 98 * 10**9 + 3, 36 * 10**9 + 1)
DEVICES = 8


class Operator:
    """One process, as far as the books are concerned."""

    def __init__(self, ledger: Ledger, clock: FakeClock, api: Api) -> None:
        self.api, self.ledger = api, ledger
        self.told: list[Any] = []
        self.ended: dict[str, Pod] = {}
        self.gone: dict[str, int] = {}
        """Nodes of which this one heard that they are no more, and when."""
        self.state = empty_state(clock)
        self.keeper = Bookkeeper(self, self.state, lambda _: None, alone=True)
        self.observer = Observer(self.state, operator_urls=())
        caches = self.state.caches
        caches.nodes.on_change(self.observer.node_changed)
        caches.nodes.on_change(self.keeper.node_changed)
        caches.pods.on_change(self.keeper.pod_changed)
        for job in api.jobs.values():
            self.state.jobs.put(copy.deepcopy(job))
        self.relist()
        self.keeper.opened(ledger.remembered(self.state.jobs.uids()))

    def offer(self, fact: Any) -> bool:
        self.told.append(fact)
        return True

    def durable(self, pod: Pod) -> bool:
        known = self.ended.get(pod.uid)
        return known is not None and pod.released is not None and merged(known, pod) == known

    def store(self) -> None:
        told, self.told = self.told, []
        self.ledger.observe(told)
        self.ended.update((one.uid, one) for one in told if isinstance(one, Pod) and one.released)

    def relist(self) -> None:
        """All that there is, as after a watch that broke off."""
        self.api.log.clear()
        there = {raw["metadata"]["uid"] for raw in self.api.nodes.values()}
        known = {view.machine.uid for view in self.state.caches.nodes.views() if view.machine}
        self.gone |= dict.fromkeys(known - there, self.api.now)
        for cache, objects in (
            (self.state.caches.nodes, self.api.nodes),
            (self.state.caches.pods, self.api.pods),
        ):
            for message in (ListStarted(), ListPage(copy.deepcopy([*objects.values()])), ListEnded("1")):
                cache._feed(message)

    def watch(self, count: int) -> None:
        """So many words of the watches, in their order."""
        for kind, type_, raw in self.api.log[:count]:
            if kind == "node" and type_ == "DELETED":
                self.gone[raw["metadata"]["uid"]] = self.api.now
            getattr(self.state.caches, f"{kind}s")._feed(WatchEvent(type_, raw))
        del self.api.log[:count]

    def look(self) -> None:
        """At every job; what may go goes."""
        for key in {*self.state.jobs.keys(), *self.state.caches.pods.owners()}:
            assert isinstance(key, JobKey)
            world = self.keeper.looked(key, self.observer.observe(key))
            for strip in release(world, world.pods):
                self.api.let_go(strip.name, strip.uid)


class Api:
    """The objects, and what watches would say of them."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.nodes: dict[str, Raw] = {}
        self.pods: dict[str, Raw] = {}
        self.jobs: dict[str, Raw] = {}
        self.log: list[tuple[str, str, Raw]] = []

    @property
    def now(self) -> int:
        return micros(self._clock.now())

    @property
    def time(self) -> str:
        return stamp(self._clock.now())

    def put(self, kind: str, raw: Raw) -> None:
        objects: dict[str, Raw] = getattr(self, f"{kind}s")
        name = raw["metadata"]["name"]
        self.log.append((kind, "MODIFIED" if name in objects else "ADDED", copy.deepcopy(raw)))
        objects[name] = raw

    def remove(self, kind: str, name: str) -> None:
        raw = getattr(self, f"{kind}s").pop(name)
        self.log.append((kind, "DELETED", raw))

    def let_go(self, name: str, uid: str) -> None:
        """The finalizer goes, and with it the pod that was deleted."""
        pod = self.pods.get(name)
        if pod is None or pod["metadata"]["uid"] != uid:
            return
        pod["metadata"]["finalizers"] = []
        if "deletionTimestamp" in pod["metadata"]:
            self.remove("pod", name)
        else:
            self.put("pod", pod)

    def delete_pod(self, pod: Raw) -> None:
        """By force: its kubelet is not waited for."""
        pod["metadata"].setdefault("deletionTimestamp", self.time)
        pod["metadata"]["deletionGracePeriodSeconds"] = 0
        if pod["metadata"]["finalizers"]:
            self.put("pod", pod)
        else:
            self.remove("pod", pod["metadata"]["name"])


class Sights:
    """What happens, and who sees it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock, self.count, self.term = FakeClock(), 0, 0
        self.api = Api(self.clock)
        self.prices = Traced(PriceBook(rows_of([PRICE])))
        # What really happened.
        self.machines: dict[str, trace.Node] = {}
        self.held: dict[str, trace.Pod] = {}
        self.owners: list[trace.Attributed] = []
        self.stored: set[str] = set()
        self.operator: Operator | None = None
        self.rises()

    @property
    def now(self) -> int:
        return self.api.now

    def _store(self) -> None:
        """A node is in the ledger once it was stored; it is gone since who stored it heard so."""
        assert self.operator is not None
        self.operator.store()
        with self.operator.ledger.database.reading() as connection:
            rows = connection.exec_driver_sql("SELECT uid.uid FROM node JOIN uid ON uid.id = node.id")
            self.stored = set(rows.scalars())
        for uid, at in self.operator.gone.items():
            if self.machines[uid].deleted is None:
                self.machines[uid] = replace(self.machines[uid], deleted=at)

    def _alive(self, seed: float) -> Raw | None:
        """A pod that holds something, on a node that is there."""
        found = [
            pod
            for pod in self.api.pods.values()
            if self.held[pod["metadata"]["uid"]].released is None
            and pod["spec"]["nodeName"] in self.api.nodes
        ]
        return random.Random(seed).choice(found) if found else None

    # ---- what happens -------------------------------------------------------------------------------

    def node_comes(self, name: str) -> None:
        if name in self.api.nodes:
            return
        self.clock.jump(1)  # a name does not come again within the second in which the other had a pod
        self.count += 1
        uid = f"uid-{name}-{self.count}"
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self.api.time}
        labels = {"node.kubernetes.io/instance-type": "big"}
        raw = {
            "metadata": {"name": name, "uid": uid, "creationTimestamp": self.api.time, "labels": labels},
            "spec": {"providerID": f"aws:///zone/{uid}"},
            "status": {"conditions": [ready], "capacity": {"nvidia.com/gpu": str(DEVICES)}},
        }
        self.api.put("node", raw)
        place = (uid, name, "aws", "", "", "big", "on-demand")
        self.machines[uid] = trace.Node(*place, gpus=DEVICES, created=self.now)

    def node_goes(self, seed: float) -> None:
        if not self.api.nodes:
            return
        self.api.remove("node", random.Random(seed).choice(sorted(self.api.nodes)))

    def job_comes(self, team: str) -> None:
        if len(self.api.jobs) > 2:
            return
        self.count += 1
        raw = raw_job(name=f"job-{self.count}")
        uid = f"uid-job-{self.count}"
        raw["metadata"] |= {"uid": uid, "creationTimestamp": self.api.time, "labels": {"mlenv.io/team": team}}
        self.api.jobs[uid] = raw
        self.operator.state.jobs.put(copy.deepcopy(raw))
        owner = trace.Owner("ns", raw["metadata"]["name"], uid, team)
        self.owners.append(trace.Attributed(uid, self.now, owner))

    def pod_comes(self, seed: float, gpus: int) -> None:
        """The operator made it, so it has seen its job; and it is scheduled at once."""
        if not self.api.jobs or not self.api.nodes:
            return
        self.sees(len(self.api.log))
        self.operator.look()
        self._store()
        rng = random.Random(seed)
        job = rng.choice(sorted(self.api.jobs))
        node = self.api.nodes[rng.choice(sorted(self.api.nodes))]
        self.count += 1
        name, scheduled = self.api.jobs[job]["metadata"]["name"], {"type": "PodScheduled", "status": "True"}
        pod = raw_pod(
            0, self.count, state={}, conditions=[{**scheduled, "lastTransitionTime": self.api.time}]
        )
        pod["metadata"]["labels"] = {"mlenv.io/job-name": name, "mlenv.io/job-uid": job}
        pod["metadata"]["ownerReferences"][0]["uid"] = job
        pod["spec"]["nodeName"] = node["metadata"]["name"]
        pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": str(gpus)}}
        pod["status"]["phase"] = "Pending"
        self.api.put("pod", pod)
        uid, on = pod["metadata"]["uid"], node["metadata"]["uid"]
        self.held[uid] = trace.Pod(uid, "ns", pod["metadata"]["name"], job, on, gpus=gpus, scheduled=self.now)

    def pod_starts(self, seed: float) -> None:
        pod = self._alive(seed)
        if pod is None or pod["status"]["phase"] != "Pending":
            return
        pod["status"]["phase"] = "Running"
        pod["status"]["containerStatuses"][0]["state"] = {"running": {"startedAt": self.api.time}}
        self.api.put("pod", pod)
        self._held(pod, started=self.now)

    def pod_ends(self, seed: float, code: int) -> None:
        pod = self._alive(seed)
        if pod is None or pod["status"]["phase"] != "Running":
            return
        began = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
        times = {"startedAt": began, "finishedAt": self.api.time}
        pod["status"]["phase"] = "Failed" if code else "Succeeded"
        pod["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": code, **times}}
        self.api.put("pod", pod)
        self._held(pod, finished=self.now, released=self.now)

    def _held(self, pod: Raw, **changes: int) -> None:
        uid = pod["metadata"]["uid"]
        self.held[uid] = replace(self.held[uid], **changes)

    def pod_is_deleted(self, seed: float) -> None:
        if self.api.pods:
            self._delete(self.api.pods[random.Random(seed).choice(sorted(self.api.pods))])

    def _delete(self, pod: Raw) -> None:
        if self.held[pod["metadata"]["uid"]].released is None:
            self._held(pod, released=self.now)
        self.api.delete_pod(pod)

    def job_is_deleted(self, seed: float) -> None:
        """With its pods: whoever leads, or nobody."""
        if not self.api.jobs:
            return
        uid = random.Random(seed).choice(sorted(self.api.jobs))
        job = self.api.jobs.pop(uid)
        if self.operator is not None:
            self.operator.state.jobs.drop(JobKey("ns", job["metadata"]["name"]), uid)
        for pod in [*self.api.pods.values()]:
            if pod["metadata"]["labels"]["mlenv.io/job-uid"] == uid:
                self._delete(pod)

    def passes(self, seconds: int) -> None:
        self.clock.jump(seconds)

    # ---- who sees it --------------------------------------------------------------------------------

    def is_killed(self) -> None:
        self.operator.ledger.database.close()
        self.operator = None

    def rises(self) -> None:
        self.term += 1
        ledger = open_ledger(f"sqlite:///{self.folder}/ledger.db", self.prices)
        ledger.begin(Writer(self.term, f"operator-{self.term}"), since=self.now)
        there = {raw["metadata"]["uid"] for raw in self.api.nodes.values()}
        self.operator = Operator(ledger, self.clock, self.api)
        self.operator.gone |= dict.fromkeys(self.stored - there, self.now)

    def sees(self, count: int) -> None:
        self.operator.watch(count)

    def relists(self) -> None:
        self.operator.relist()

    def looks(self, *, store: bool) -> None:
        self.operator.look()
        if store:
            self._store()
            self.operator.look()

    def settles(self) -> None:
        self._store()
        self.operator.ledger.settle_all(self.now)

    def agrees(self) -> None:
        """With the oracle, once all is seen and closed."""
        if self.operator is None:
            self.rises()
        assert self.operator is not None
        for _ in range(3):
            self.sees(len(self.api.log))
            self.looks(store=True)
        ledger, horizon = self.operator.ledger, (self.now // HOUR + 1) * HOUR
        ledger.settle_all(horizon + 7 * HOUR)
        nodes = [one for uid, one in self.machines.items() if uid in self.stored]
        truth = told_to_oracle([PRICE, *nodes, *self.held.values(), *self.owners], horizon)
        found, imbalance = stored(ledger, horizon), ledger.imbalance()
        ledger.database.close()
        assert found == truth
        assert imbalance == 0
        waiting = [pod for pod in self.api.pods.values() if "deletionTimestamp" in pod["metadata"]]
        assert all(pod["spec"]["nodeName"] not in self.api.nodes for pod in waiting)


LED: tuple[tuple[int, Callable[[Sights, random.Random], None]], ...] = (
    (8, lambda one, rng: one.job_comes(rng.choice(["ads", "feed"]))),
    (22, lambda one, rng: one.pod_comes(rng.random(), rng.randint(0, DEVICES))),
    (12, lambda one, rng: one.sees(rng.randint(1, 9))),
    (2, lambda one, _: one.relists()),
    (14, lambda one, rng: one.looks(store=rng.random() < 0.6)),
    (4, lambda one, _: one.settles()),
    (4, lambda one, _: one.is_killed()),
)
"""What an operator does, while there is one."""
ALWAYS: tuple[tuple[int, Callable[[Sights, random.Random], None]], ...] = (
    (20, lambda one, rng: one.passes(rng.choice([1, 1, 1, 7, 60, 600, 2400]))),
    (9, lambda one, rng: one.node_comes(rng.choice(["n1", "n2", "n3"]))),
    (2, lambda one, rng: one.node_goes(rng.random())),
    (10, lambda one, rng: one.pod_starts(rng.random())),
    (8, lambda one, rng: one.pod_ends(rng.random(), rng.randint(0, 1))),
    (4, lambda one, rng: one.pod_is_deleted(rng.random())),
    (1, lambda one, rng: one.job_is_deleted(rng.random())),
)
AWAY = ((6, lambda one, _: one.rises()),)


@pytest.mark.parametrize("seed", range(4))
def test_any_history(tmp_path: Path, seed: int) -> None:
    rng, sights = random.Random(seed), Sights(tmp_path)
    for _ in range(250):
        actions = (*ALWAYS, *(LED if sights.operator else AWAY))
        action = rng.choices([one for _, one in actions], [weight for weight, _ in actions])[0]
        action(sights, rng)
    sights.agrees()
    assert len(sights.held) > 5
    assert sights.term > 2
