"""The whole operator with a ledger, beside a real API server: what pods held is charged, to the nanodollar.

There is no kubelet: the test is one. A node costs ten million nanodollars a second, and each pod holds all
devices of its node: what a pod costs is its seconds times that, with nothing to round.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest
from operator_process import operator_process

from mlenv_api import names
from mlenv_operator.adapters.metrics import Metrics
from mlenv_operator.adapters.pricebooks import Books, project_book
from mlenv_operator.cost.facts import DOLLAR, HOUR, SECOND
from mlenv_operator.ledger.backup import back_up
from mlenv_operator.ledger.database import Database
from mlenv_operator.ledger.ledger import Ledger, open_ledger
from mlenv_operator.runtime.clock import SystemClock
from mlenv_operator.runtime.reflector import Change, ChangeType, ObjectKey

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mlenv_operator.kube.client import Client

    from .conftest import Kubectl

pytestmark = [pytest.mark.api, pytest.mark.timeout(3600)]  # the first one may build the server
Raw = dict[str, Any]
DEADLINE_S = 300.0
PER_SECOND = 10_000_000
TYPE = "p5.48xlarge"


def stamp(time_: datetime) -> str:
    return time_.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Stage:
    """An API server, a namespace for jobs, and operators that come and go."""

    kubectl: Kubectl
    team: str
    folder: Path
    stack: ExitStack
    operators: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        return f"sqlite:///{self.folder}/ledger.db"

    def start_operator(self, dsn: str = "") -> Path:
        """One more; the first that gets the Lease leads. Its log."""
        log = self.folder / f"operator-{len(self.operators)}.log"
        one = operator_process(
            self.kubectl.kubeconfig,
            self.team,
            log,
            POD_NAME=f"operator-{len(self.operators)}",
            MLENV_OPERATOR_LEDGER_DSN=dsn or self.dsn,
            MLENV_OPERATOR_LEASE_DURATION_S="60",
            MLENV_OPERATOR_LEASE_RENEW_DEADLINE_S="40",
            MLENV_OPERATOR_LEASE_RETRY_PERIOD_S="1",
        )
        self.operators.append(self.stack.enter_context(one))
        return log

    def kill_operator(self, number: int) -> None:
        """SIGKILL of the one that leads; its Lease, long enough for any machine, is given away."""
        self.operators[number].kill()
        self.operators[number].wait()
        lease = ("lease", names.LEASE_NAME, "-n", self.team)
        assert self.kubectl.json("get", *lease)["spec"]["holderIdentity"].startswith(f"operator-{number}_")
        self.kubectl.ok("patch", *lease, "--type=merge", "-p", '{"spec": {"holderIdentity": ""}}')

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if found := condition():
                return found
            time.sleep(0.2)
        logs = [log.read_text()[-3000:] for log in sorted(self.folder.glob("*.log"))]
        pytest.fail("\n".join([f"never: {what}", *logs]))

    def add_node(self, name: str, type_: str = TYPE) -> None:
        labels = {"node.kubernetes.io/instance-type": type_, "topology.kubernetes.io/region": "us-east-1"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "spec": {"providerID": f"aws:///us-east-1a/{name}"},
        }
        self.kubectl.ok("create", "-f", "-", stdin=node)
        has = {"nvidia.com/gpu": "8", "cpu": "192", "memory": "2Ti", "pods": "100"}
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(datetime.now(UTC))}
        self.patch("node", name, {"capacity": has, "allocatable": has, "conditions": [ready]})

    def patch(self, kind: str, name: str, status: Raw) -> None:
        scope = () if kind == "node" else ("-n", self.team)
        text = json.dumps({"status": status})
        self.kubectl.ok("patch", kind, name, *scope, "--subresource=status", "--type=merge", "-p", text)

    def submit(self, name: str, **spec: Any) -> Raw:
        trainer = {
            "image": "x:1",
            "command": ["true"],
            "resourcesPerNode": {"limits": {"nvidia.com/gpu": "8"}},
        }
        job = {
            "apiVersion": names.API_VERSION,
            "kind": names.TRAINING_JOB,
            "metadata": {"namespace": self.team, "name": name, "labels": {"mlenv.io/team": f"of-{name}"}},
            "spec": {"trainer": trainer, "launcher": "None", **spec},
        }
        self.kubectl.ok("create", "-f", "-", stdin=job)
        self.until(lambda: self.pod(name), f"a pod of {name}")
        return cast("Raw", self.kubectl.json("get", "trainingjob", "-n", self.team, name))

    def status(self, job: str) -> Raw:
        found = self.kubectl.json("get", "trainingjob", "-n", self.team, job)
        return cast("Raw", found.get("status", {}))

    def pod(self, job: str) -> Raw | None:
        """The pod of a job of one pod, as the API server has it."""
        found = self.kubectl.run("get", "pod", "-n", self.team, f"{job}-0-0", "-o", "json")
        return cast("Raw", json.loads(found.stdout)) if found.returncode == 0 else None

    def held(self, job: str) -> bool:
        """Whether the pod is there and has our finalizer."""
        pod = self.pod(job)
        return pod is not None and names.ACCOUNTED_FINALIZER in pod["metadata"].get("finalizers", ())

    def run_pod(self, job: str, node: str) -> datetime:
        """Schedule and start it; when it was scheduled, by the API server's word."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": f"{job}-0-0"},
            "target": target,
        }
        path = f"/api/v1/namespaces/{self.team}/pods/{job}-0-0/binding"
        self.kubectl.ok("create", "--raw", path, "-f", "-", stdin=binding)
        pod = self.pod(job)
        assert pod is not None
        at = next(
            datetime.fromisoformat(one["lastTransitionTime"])
            for one in pod["status"]["conditions"]
            if one["type"] == "PodScheduled"
        )
        self._say(job, "Running", {"running": {"startedAt": stamp(at)}})
        return at

    def end_pod(self, job: str, started: datetime, seconds: int, code: int = 0) -> None:
        """All its containers have ended, so many seconds after it was scheduled, and that time is over.

        What ends in the future has held nothing of a node that is gone by then.
        """
        ended = started + timedelta(seconds=seconds)
        self.until(lambda: datetime.now(UTC) >= ended, "so many seconds are over")
        times = {"startedAt": stamp(started), "finishedAt": stamp(ended)}
        self._say(job, "Failed" if code else "Succeeded", {"terminated": {"exitCode": code, **times}})

    def _say(self, job: str, phase: str, state: Raw) -> None:
        container = {
            "name": names.TRAINER_CONTAINER,
            "image": "x:1",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        self.patch("pod", f"{job}-0-0", {"phase": phase, "containerStatuses": [container]})


@pytest.fixture
def stage(kubectl: Kubectl, tmp_path: Path) -> Iterator[Stage]:
    team = f"money-{secrets.token_hex(4)}"
    kubectl.ok("create", "namespace", team)
    with ExitStack() as stack:
        yield Stage(kubectl, team, tmp_path, stack)
    kubectl.run("delete", "pricebook", team)
    kubectl.run("delete", "budget", team)
    kubectl.run("delete", "namespace", team, "--wait=false")


def budget(name: str) -> Raw:
    """Five cents a month for the team of the job `spender`."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.BUDGET,
        "metadata": {"name": name},
        "spec": {"team": "of-spender", "amountUSD": "0.05"},
    }


def price_book(name: str) -> Raw:
    match = {"provider": "aws", "region": "us-east-1", "instanceType": TYPE}
    price = {"match": match, "perHour": "36", "from": "2025-01-01T00:00:00Z"}
    spec = {"source": "our contract", "asOf": "2025-01-01T00:00:00Z", "prices": [price]}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.PRICE_BOOK,
        "metadata": {"name": name},
        "spec": spec,
    }


@contextmanager
def settled(dsn: str, book: Raw) -> Iterator[Ledger]:
    """The ledger after some hours, with every hour closed, at the prices of the cluster."""
    books = Books(cast("Client", None), SystemClock(), random.Random(1), Metrics())
    name = ObjectKey("", book["metadata"]["name"])
    books.changed(Change(ChangeType.ADDED, name, None, project_book(book)))
    ledger = open_ledger(dsn, books)
    ledger.database.adopt()
    ledger.settle_all(int(time.time()) * SECOND + 30 * HOUR)
    yield ledger
    ledger.database.close()


def stored(stage: Stage, query: str) -> list[Any]:
    """What the ledger says now, while operators work."""
    database = Database(stage.dsn)
    with database.reading() as connection:
        found = connection.exec_driver_sql(query).all()
    database.close()
    return list(found)


def noted(stage: Stage) -> int:
    """Nanodollars that counters show, by the word of the second place."""
    found = stage.kubectl.run("get", "configmap", "-n", stage.team, "mlenv-operator-counters", "-o", "json")
    if found.returncode:
        return 0
    return sum(json.loads(json.loads(found.stdout)["data"]["shown"])["cost"].values())


def test_every_second_that_a_pod_held_is_charged_whatever_happens_to_operators(stage: Stage) -> None:
    kubectl, team = stage.kubectl, stage.team
    kubectl.ok("create", "-f", "-", stdin=price_book(team))
    nodes = [f"{team}-{number}" for number in range(3)]
    for node in nodes:
        stage.add_node(node)
    stage.start_operator()

    # One that lives a second. Once it may go, its end is in the ledger.
    brief = stage.submit("brief")
    stage.end_pod("brief", stage.run_pod("brief", nodes[0]), 1)
    stage.until(lambda: not stage.held("brief"), "the pod of brief is let go of")
    released = stored(stage, "SELECT released - scheduled FROM pod WHERE name = 'brief-0-0'")
    assert released == [(SECOND,)]
    back_up(Database(stage.dsn), stage.folder / "old.db")

    # One that is deleted, and whose pod ends and is deleted, while no operator runs.
    unseen = stage.submit("unseen")
    long = stage.submit("long")
    began, begun = stage.run_pod("unseen", nodes[1]), stage.run_pod("long", nodes[2])
    stage.until(lambda: len(stored(stage, "SELECT 1 FROM pod WHERE started > 0")) == 3, "both are told of")
    stage.kill_operator(0)
    stage.end_pod("unseen", began, 7, code=1)
    kubectl.ok("delete", "trainingjob", "-n", team, "unseen", "--wait=false")
    kubectl.ok("delete", "pod", "-n", team, "unseen-0-0", "--wait=false", "--grace-period=0", "--force")
    assert stage.held("unseen")
    stage.start_operator()
    stage.until(lambda: stage.pod("unseen") is None, "the pod of unseen goes")

    # A standby takes over from one that is killed, and the pod ends in between.
    stage.start_operator()
    stage.kill_operator(1)
    stage.end_pod("long", begun, 11)
    stage.until(lambda: not stage.held("long"), "the pod of long is let go of")

    # A machine goes, and the counters of the last leader show what was spent.
    kubectl.ok("delete", "node", nodes[2])
    stage.until(lambda: stored(stage, "SELECT 1 FROM node WHERE deleted > 0"), "the node's end is told")
    stage.until(lambda: stored(stage, "SELECT 1 FROM counter WHERE shown_cost > 0"), "counters show money")
    stage.until(lambda: noted(stage) > 0, "the second place is told what they show, a moment later")
    stage.kill_operator(2)

    with settled(stage.dsn, kubectl.json("get", "pricebook", team)) as ledger:
        for job, seconds in ((brief, 1), (unseen, 7), (long, 11)):
            lines = ledger.explain(job["metadata"]["uid"])
            assert sum(line.amounts.cost for line in lines) == seconds * PER_SECOND
            assert sum(line.amounts.held for line in lines) == seconds * SECOND
            assert {line.attribution and line.attribution.team for line in lines} == {
                f"of-{job['metadata']['name']}"
            }
            assert {line.price and line.price.body["source"] for line in lines} == {
                f"PriceBook {team}: our contract"
            }
        assert ledger.imbalance() == 0

    # A backup from before is noticed, on another volume too: the second place is in the cluster.
    other = stage.folder / "other"
    other.mkdir()
    (stage.folder / "old.db").rename(other / "ledger.db")
    log = stage.start_operator(f"sqlite:///{other}/ledger.db")
    stage.until(lambda: "restored from an older backup" in log.read_text(), "the old ledger is refused")
    for node in nodes[:2]:
        kubectl.ok("delete", "node", node)


def test_a_job_that_cost_as_much_as_its_limit_waits_for_a_higher_one(stage: Stage) -> None:
    kubectl, team, node = stage.kubectl, stage.team, f"{stage.team}-0"
    kubectl.ok("create", "-f", "-", stdin=price_book(team))
    kubectl.ok("create", "-f", "-", stdin=budget(team))
    stage.add_node(node)
    stage.start_operator()
    stage.submit("spender", cost={"limit": "0.05", "onExceeded": "Suspend"})
    began = stage.run_pod("spender", node)

    stage.until(
        lambda: stage.status("spender")["attempt"]["state"] == "Suspending", "five seconds are enough"
    )
    paid = Decimal(stage.status("spender")["cost"]["amount"])
    assert paid >= Decimal("0.05")
    assert kubectl.json("get", "trainingjob", "-n", team, "spender")["spec"].get("suspend", False) is False
    held = int((datetime.now(UTC) - began).total_seconds())
    stage.end_pod("spender", began, held)
    kubectl.ok("delete", "pod", "-n", team, "spender-0-0", "--wait=false", "--grace-period=0", "--force")
    stage.until(lambda: stage.status("spender")["phase"] == "Suspended", "its pod is let go of")

    # What it held to its end is told once more, to the nanodollar.
    stage.until(lambda: stage.status("spender")["cost"].get("final"), "all that it held is counted")
    cost = stage.status("spender")["cost"]
    assert Decimal(cost["amount"]) == Decimal(held * PER_SECOND) / DOLLAR
    assert sum(map(Decimal, cost["byCategory"].values())) == Decimal(cost["amount"])
    (reached,) = (one for one in stage.status("spender")["conditions"] if one["type"] == "CostExceeded")
    assert (reached["status"], reached["reason"]) == ("True", "CostExceeded")
    assert "raise spec.cost.limit" in reached["message"]
    events = kubectl.json("get", "events", "-n", team)["items"]
    assert [one["type"] for one in events if one["reason"] == "CostExceeded"] == ["Warning"]

    # A budget of its team tells the same, and had no part in it.
    done = kubectl.run("wait", f"budget/{team}", "--for=condition=Exceeded", "--timeout=250s")
    assert done.returncode == 0, done.stderr
    told = kubectl.json("get", "budget", team)["status"]
    assert Decimal("0.05") <= Decimal(told["spentUSD"]) <= Decimal(cost["amount"])
    assert told["crossed"] == [50, 80, 100]

    # The price of the machine was 36 dollars an hour: this is enough for a while.
    raised = json.dumps({"spec": {"cost": {"limit": "1000"}}})
    kubectl.ok("patch", "trainingjob", "-n", team, "spender", "--type=merge", "-p", raised)
    stage.until(lambda: stage.status("spender")["phase"] == "Assembling", "it goes on")
    stage.until(
        lambda: kubectl.run("get", "pod", "-n", team, "spender-0-1").returncode == 0, "a pod of attempt 2"
    )
    kubectl.ok("delete", "trainingjob", "-n", team, "spender", "--wait=false")
    kubectl.ok("delete", "node", node)


def test_what_a_job_held_without_a_price_is_unknown_once_it_has_let_go_of_it(stage: Stage) -> None:
    kubectl, team, node = stage.kubectl, stage.team, f"{stage.team}-0"
    stage.add_node(node, "of.nobodys.list")
    stage.start_operator()
    uid = stage.submit("free")["metadata"]["uid"]
    stage.end_pod("free", stage.run_pod("free", node), 2)
    stage.until(lambda: stage.status("free").get("cost", {}).get("final"), "all that it held is counted")
    cost = stage.status("free")["cost"]
    assert ("amount" in cost, cost.get("byCategory", {})) == (False, {}), cost
    assert "has no price" in cost["message"]
    stage.kill_operator(0)
    # Its bill says how much that was; with a price it is known.
    priced = price_book(team)
    priced["spec"]["prices"][0]["match"]["instanceType"] = "of.nobodys.list"
    ledger = open_ledger(stage.dsn)
    now = int(time.time()) * SECOND
    assert (ledger.job(uid, now).unpriced, ledger.job(uid, now).cost) == (2 * SECOND, 0)
    ledger.database.close()
    kubectl.ok("create", "-f", "-", stdin=priced)
    with settled(stage.dsn, kubectl.json("get", "pricebook", team)) as mended:
        assert (mended.job(uid, now).unpriced, mended.job(uid, now).cost) == (0, 2 * PER_SECOND)
    kubectl.ok("delete", "trainingjob", "-n", team, "free", "--wait=false")
    kubectl.ok("delete", "node", node)
