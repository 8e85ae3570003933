"""The operator is killed at every kind of moment; the next one comes to the same end."""

from __future__ import annotations

import secrets
import signal
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from crowd.ports import free_port
from history import History
from hunt import Ground
from killed_operator import Trap
from live import Namespace, condition
from outside import LEASE, Operators, Outside, prepare
from traps import POD, TO_COMPLETE, TO_GONE, TO_RESTARTED, TO_RESUMED, TO_RUN_FROM, TO_SUSPENDED

from mlenv_local import Cluster, needs
from mlenv_local.audit import AuditLog
from mlenv_local.progress import Reporter
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from live import Job, Raw

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

NODES = 3
LEADS = 401
"""The answer of a leader to a beat without a token; others do not even ask for one."""
SHORT_LEASE = {
    "MLENV_OPERATOR_LEASE_DURATION_S": "14",
    "MLENV_OPERATOR_LEASE_RENEW_DEADLINE_S": "10",
    "MLENV_OPERATOR_LEASE_RETRY_PERIOD_S": "0.5",
}
"""Waited out in some tests; but with the default deadline, or a busy machine loses it by itself."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    missing = needs.judge(needs.look(), images=False)
    if missing:
        pytest.skip(needs.explain(missing))
    found = Cluster("mlenv-tkill", reporter=Reporter())
    found.down()
    found.up(nodes=1)
    prepare(found)
    yield found
    found.down()
    assert found.leftovers() == []


@pytest.fixture(scope="module")
def operators(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operators]:
    port = free_port(str(cluster.layout.host_address))
    found = Operators(cluster, tmp_path_factory.mktemp("operators"), port)
    yield found
    found.close()


@pytest.fixture(scope="module")
def ns(cluster: Cluster) -> Iterator[Namespace]:
    found = Namespace(cluster, f"kill-{secrets.token_hex(3)}")
    yield found
    found.close()


SHAPES = {"None": NODES, "MLEnv": 1}


@pytest.fixture(scope="module")
def undisturbed(operators: Operators, ns: Namespace) -> dict[str, Raw]:
    """What the status says in the end when nobody was killed, by launcher."""
    operators.ready()
    jobs = {launcher: _submit(ns, launcher) for launcher in SHAPES}
    found = {launcher: _told(job.until_phase("Complete")) for launcher, job in jobs.items()}
    for job in jobs.values():
        job.delete()
        job.until_gone()
    return found


@pytest.mark.parametrize(
    ("launcher", "point"),
    [("None", point) for point in TO_COMPLETE] + [("MLEnv", point) for point in TO_COMPLETE if "it" in point],
)
def test_killed_on_the_way_to_complete(
    operators: Operators, ns: Namespace, undisturbed: dict[str, Raw], launcher: str, point: str
) -> None:
    audit = AuditLog(operators.cluster.audit_log)
    operators.ready().set(TO_COMPLETE[point])
    job = _submit(ns, launcher)
    operators.died(ns)
    _same_end(job, audit, undisturbed[launcher], SHAPES[launcher])


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_snapshot_of_the_environment(
    operators: Operators, undisturbed: dict[str, Raw], moment: str
) -> None:
    fresh = Namespace(
        operators.cluster, f"kill-{secrets.token_hex(3)}"
    )  # nobody has used the environment here
    audit = AuditLog(operators.cluster.audit_log)
    operators.ready().set(Trap(moment, "create", "controllerrevisions"))
    job = _submit(fresh, "None")
    operators.died(fresh)
    _same_end(job, audit, undisturbed["None"], SHAPES["None"])
    fresh.close()


@pytest.mark.parametrize("launcher", ["None", "MLEnv"])
def test_killed_while_it_runs(operators: Operators, ns: Namespace, launcher: str) -> None:
    job = ns.sleeper(_name(), NODES if launcher == "None" else 1, launcher=launcher)
    operators.ready()
    before = job.until_phase("Running")
    uids = job.uids()
    operators.ready().kill()
    operators.died(ns)
    after = job.until_seen(job.edit(ttlSecondsAfterFinished=5))
    assert after["attempt"] == before["attempt"]
    assert job.uids() == uids
    job.edit(activeDeadlineSeconds=1)
    job.until_gone()


def test_killed_while_pods_are_awaited(operators: Operators, ns: Namespace) -> None:
    lacking = {"nodeSelector": {"not": "there"}}
    job = ns.sleeper(_name(), 2, podTemplateOverrides={"spec": lacking})
    operators.ready()
    told = job.until_says("PodsReady", "False", "Unschedulable")
    before, uids = job.status(), job.uids()
    operators.ready().kill()
    operators.died(ns)
    after = job.until_seen(job.edit(failurePolicy={"maxRestarts": 8}))
    assert told
    assert after["attempt"] == before["attempt"]
    assert job.uids() == uids
    job.delete()
    job.until_gone()


@pytest.mark.parametrize("point", TO_RESTARTED)
def test_killed_on_the_way_to_the_next_attempt(operators: Operators, ns: Namespace, point: str) -> None:
    program = 'test "$MLENV_ATTEMPT" != 1'
    operators.ready().set(TO_RESTARTED[point])
    job = ns.submit(_name(), launcher="MLEnv", trainer={"command": ["sh", "-c", program]})
    operators.died(ns)
    status = job.until_phase("Complete")
    assert status["incarnations"] == [0], "the launcher ran both attempts in one pod"
    assert status["restarts"] == {"total": 1, "counted": 1, "withoutProgress": 1}
    assert [one["number"] for one in status["attempts"]] == [2, 1]
    job.delete()
    job.until_gone()


@pytest.mark.parametrize("point", TO_RUN_FROM)
def test_killed_between_what_rank_0_proposes_and_the_record_of_it(
    operators: Operators, ns: Namespace, tmp_path_factory: pytest.TempPathFactory, point: str
) -> None:
    ground = Ground(ns, tmp_path_factory.mktemp("ground"), History())
    operators.ready().set(TO_RUN_FROM[point])
    job = ground.submit(_name(), 1, 1, 60, DIE="1:50")
    assert operators.ready().wait() == -signal.SIGKILL, operators.ready().tail()
    waits = "waits for the operator to record that it runs from the checkpoint of step 40"
    assert wait_until(lambda: waits in job.logs(f"{job.name}-0-0"), seconds=300), job.describe()
    stored, made = job.status()["attempt"], ground.diary(job).of(2)
    assert (stored["number"], "origin" in stored) == (2, "after" in point)
    assert made == [], "nobody was told that it is recorded"
    operators.died(ns)
    status = job.until_phase("Complete")
    assert [(one["number"], one.get("resumedFrom")) for one in status["attempts"]] == [(2, 40), (1, 0)]
    assert status["attempt"]["origin"]["checkpoint"]["step"] == ground.diary(job).of(2)[0]["begins"] == 40
    assert status["attempts"][1]["lostSteps"] == status["attempts"][1]["lastStep"] - 40
    assert (ground.diary(job).contradictions(), ground.diary(job).end["exact"]) == ([], True)
    job.delete()
    job.until_gone()


@pytest.mark.parametrize("point", TO_SUSPENDED)
def test_killed_while_it_is_suspended(operators: Operators, ns: Namespace, point: str) -> None:
    audit = AuditLog(operators.cluster.audit_log)
    job = ns.sleeper(_name(), NODES)
    operators.ready()
    job.until_phase("Running")
    operators.ready().set(TO_SUSPENDED[point])
    job.edit(suspend=True)
    operators.died(ns)
    status = job.until_phase("Suspended")
    job.until_pods(lambda pods: not pods, "end of all pods")
    assert condition(status, "Suspended")["status"] == "True"
    assert [one["reason"] for one in status["attempts"]] == ["Suspended"]
    _each_pod_once(audit, job, NODES)
    job.delete()
    job.until_gone()


@pytest.mark.parametrize("point", TO_RESUMED)
def test_killed_while_it_is_resumed(operators: Operators, ns: Namespace, point: str) -> None:
    audit = AuditLog(operators.cluster.audit_log)
    job = ns.sleeper(_name(), NODES, suspend=True)
    operators.ready()
    job.until_phase("Suspended")
    operators.ready().set(TO_RESUMED[point])
    job.edit(suspend=False)
    operators.died(ns)
    status = job.until_phase("Running")
    assert (status["attempt"]["number"], status["incarnations"]) == (1, [0] * NODES)
    _each_pod_once(audit, job, NODES)
    job.delete()
    job.until_gone()


@pytest.mark.parametrize("point", TO_GONE)
def test_killed_while_it_is_deleted(operators: Operators, ns: Namespace, point: str) -> None:
    job = ns.sleeper(_name(), NODES)
    operators.ready()
    job.until_phase("Running")
    operators.ready().set(TO_GONE[point])
    job.delete()
    operators.died(ns)
    job.until_gone()


def test_deleted_while_nobody_watches(operators: Operators, ns: Namespace) -> None:
    job = ns.sleeper(_name(), NODES)
    operators.ready()
    job.until_phase("Running")
    operators.ready().kill()
    job.delete()
    operators.died(ns)
    job.until_gone()


@pytest.fixture
def pair(operators: Operators, ns: Namespace, tmp_path: Path) -> Iterator[tuple[Outside, Outside]]:
    """A leader, and a standby that watches; their Lease is short."""
    if operators.working is not None:
        operators.working.kill()
        operators.working = None
    ns.api.delete(LEASE)
    cluster = operators.cluster
    host = str(cluster.layout.host_address)
    ports = {name: free_port(host) for name in ("left", "right")}
    urls = ",".join(f"http://{host}:{port}" for port in ports.values())
    settings = {**SHORT_LEASE, "MLENV_OPERATOR_LAUNCHER_URLS": urls}
    both = [Outside(cluster, name, port, tmp_path / name, **settings) for name, port in ports.items()]
    try:
        both[0].begin()
        assert wait_until(lambda: both[0].says() == LEADS, seconds=300), both[0].tail()
        both[1].begin()
        assert wait_until(lambda: both[1].leader() == both[0].address, seconds=300), both[1].tail()
        yield both[0], both[1]
    finally:
        for one in both:
            one.close()
        ns.api.delete(LEASE)


def test_the_standby_names_the_leader_and_takes_over(ns: Namespace, pair: tuple[Outside, Outside]) -> None:
    leader, standby = pair
    assert standby.ask() == (421, {"leader": leader.address})
    job = ns.sleeper(_name(), launcher="MLEnv")
    before = job.until_phase("Running")
    uids = job.uids()
    leader.kill()
    after = job.until_seen(job.edit(failurePolicy={"maxRestarts": 8}))
    assert after["attempt"] == before["attempt"]
    assert job.uids() == uids
    assert standby.says() == LEADS
    job.edit(activeDeadlineSeconds=1, ttlSecondsAfterFinished=1)
    job.until_gone()  # the launcher has found the new leader, and was told to stop


def test_what_a_leader_that_was_asleep_still_sends_is_refused(
    operators: Operators, ns: Namespace, pair: tuple[Outside, Outside]
) -> None:
    leader, standby = pair
    audit = AuditLog(operators.cluster.audit_log)
    leader.set(Trap("before", *POD, nth=2, signal=signal.SIGSTOP))
    job = ns.sleeper(_name(), NODES)
    leader.until_stopped()
    job.until_phase("Running")  # the standby's doing
    assert standby.says() == LEADS
    woken = datetime.now(UTC)
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 1, leader.tail()
    assert "lease lost" in leader.tail()
    assert "Traceback" not in leader.tail()
    # Its gate is closed, but the first pod had passed it, and may go out on waking: the name is taken.
    sent = [one for one in audit.writes(user="mlenv-admin") if one.agent == f"operator-{leader.name}"]
    assert [str(one) for one in sent if one.time > woken and one.code < 400] == []
    assert {(one.resource, one.name) for one in sent if one.time > woken} <= {("pods", f"{job.name}-0-0")}
    _each_pod_once(audit, job, NODES)
    assert job.uids().keys() == {f"{job.name}-{index}-0" for index in range(NODES)}
    job.delete()
    job.until_gone()


def test_asleep_between_a_proposal_and_its_record_while_another_leads(
    ns: Namespace, pair: tuple[Outside, Outside], tmp_path: Path
) -> None:
    leader, standby = pair
    ground = Ground(ns, tmp_path, History())
    leader.set(replace(TO_RUN_FROM["before the record"], signal=signal.SIGSTOP))
    job = ground.submit(_name(), 1, 1, 60, DIE="1:50")
    leader.until_stopped()
    status = job.until_phase("Complete")  # the standby's doing
    assert standby.says() == LEADS
    leader.signal(signal.SIGCONT)
    assert leader.wait() == 1, leader.tail()
    assert "lease lost" in leader.tail()
    assert [(one["number"], one.get("resumedFrom")) for one in status["attempts"]] == [(2, 40), (1, 0)]
    assert (ground.diary(job).contradictions(), ground.diary(job).end["exact"]) == ([], True)
    assert job.status() == status
    job.delete()
    job.until_gone()


def _name() -> str:
    return f"j-{secrets.token_hex(3)}"


def _submit(ns: Namespace, launcher: str) -> Job:
    trainer = {"command": ["sh", "-c", "sleep 1"], "numNodes": SHAPES[launcher]}
    return ns.submit(_name(), launcher=launcher, trainer=trainer)


def _same_end(job: Job, audit: AuditLog, undisturbed: Raw, pods: int) -> None:
    """As if nobody had been killed; and nothing is left once it is deleted."""
    assert _told(job.until_phase("Complete")) == undisturbed
    assert job.uids().keys() == {f"{job.name}-{index}-0" for index in range(pods)}
    _each_pod_once(audit, job, pods)
    job.delete()
    job.until_gone()


def _told(status: Raw) -> Raw:
    """What a status says, but for when and where."""
    conditions = [
        {key: one[key] for key in ("type", "status", "reason", "message", "observedGeneration")}
        for one in status["conditions"]
    ]
    attempt = {key: status["attempt"].get(key) for key in ("number", "state", "timeouts")}
    records = [
        {key: one.get(key) for key in ("number", "reason", "message", "counted")}
        for one in status["attempts"]
    ]
    same = ("phase", "incarnations", "restarts", "observedGeneration", "runGeneration", "runDigest")
    found = {key: status[key] for key in same}
    return found | {"conditions": conditions, "attempt": attempt, "attempts": records}


def _each_pod_once(audit: AuditLog, job: Job, pods: int) -> None:
    """From the audit log: no slot ever got a second pod.

    A create that was on its way when its sender died may be stored without ever being answered by 201.
    """
    writes = [one for one in audit.writes(user="mlenv-admin") if one.resource == "pods"]
    ours = [one for one in writes if one.concerns(job.namespace.name, job.name)]
    made = Counter(one.name for one in ours if (one.verb, one.code) == ("create", 201))
    assert made.keys() <= {f"{job.name}-{index}-0" for index in range(pods)}
    assert made.total() == len(made), [str(one) for one in ours]
