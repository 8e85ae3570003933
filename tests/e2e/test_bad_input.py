"""Everything that people get wrong, all at once: each job says what is wrong, and nothing spins or leaks.

The jobs live side by side in one namespace, with good ones among them; mistakes.py has what each must say.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from mistakes import ABSENT, LIVE, MOVED, REFUSED, TELLS, Raw, Tells, manifest

from mlenv_api import names
from mlenv_local import Cluster, LocalError, platform
from mlenv_local.audit import AuditLog, Write
from mlenv_local.shell import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

TOLD_SECONDS = 600
FIRST_MINUTE = timedelta(seconds=60)
WINDOW = timedelta(seconds=120)


@dataclass
class Arena:
    """Two namespaces with jobs, and the log of all that is written about them."""

    cluster: Cluster
    namespace: str
    other: str
    log: AuditLog
    began: datetime = field(default_factory=lambda: datetime.now(UTC))

    def kubectl(self, *args: str, **options: Any) -> str:
        return self.cluster.kubectl("-n", self.namespace, *args, **options)

    def jobs(self) -> dict[str, Raw]:
        found = self.cluster.kubectl.get(names.TRAINING_JOBS, "-n", self.namespace)["items"]
        return {one["metadata"]["name"]: one for one in found}

    def job(self, name: str) -> Raw:
        return self.cluster.kubectl.get(names.TRAINING_JOBS, name, "-n", self.namespace)

    def apply_job(self, name: str, made: Raw, namespace: str = "") -> None:
        self.cluster.kubectl.apply(manifest(name, namespace or self.namespace, made))

    def wait_phase(self, name: str, phase: str, *, seconds: float, namespace: str = "") -> None:
        argument = f"--for=jsonpath={{.status.phase}}={phase}"
        where = ("-n", namespace or self.namespace)
        try:
            self.cluster.kubectl(
                "wait", argument, *where, f"tj/{name}", f"--timeout={seconds:.0f}s", timeout=seconds + 30
            )
        except LocalError as error:
            described = self.cluster.kubectl("describe", *where, f"tj/{name}")
            pytest.fail(f"{error}\n{described}")

    def pods(self, job: str) -> list[Raw]:
        selector = f"{names.LABEL_JOB}={job}"
        items: list[Raw] = self.cluster.kubectl.get("pods", "-n", self.namespace, "-l", selector)["items"]
        return items

    def writes(self, job: str) -> list[Write]:
        return [one for one in self.log.writes() if one.concerns(self.namespace, job)]


def local_environment(cluster: Cluster, name: str, namespace: str, **changes: Any) -> Raw:
    """The environment of the installation, as one of the namespace, with changes."""
    shape = cluster.kubectl.get(names.CLUSTER_ENVIRONMENTS, platform.ENVIRONMENT)["spec"]
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.ENVIRONMENT,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {**shape, **changes},
    }


def strangers(namespace: str) -> list[Raw]:
    """Objects of somebody else's, with names that our jobs need."""
    container = {"name": "c", "image": ABSENT, "imagePullPolicy": "Never"}
    pods = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{name}-0-0", "namespace": namespace},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
        }
        for name in ("foreign-pod", "pushed-aside")
    ]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "foreign-service", "namespace": namespace},
        "spec": {"ports": [{"port": 80}]},
    }
    return [*pods, service]


def namespace_of(name: str) -> Raw:
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.fixture(scope="module")
def arena(installed: Cluster) -> Iterator[Arena]:
    """Everything is submitted at once."""
    mark = secrets.token_hex(3)
    first, second = f"bad-{mark}", f"bad-{mark}-b"
    made = Arena(installed, first, second, AuditLog(installed.audit_log))
    installed.kubectl.apply(namespace_of(first), namespace_of(second))
    for one in (first, second):
        installed.kubectl.wait_for_account(one)
    hollow = local_environment(installed, "hollow", first, image=ABSENT, imagePullPolicy="Never")
    bare = local_environment(
        installed, "bare", first, launcherCommand=["python9", "-m", "mlenv.launch", "--"]
    )
    command = ["/usr/bin/env", "python3", "-I", "-S", "-m", "mlenv", "--"]
    plain = local_environment(installed, "plain", first, launcherCommand=command)
    installed.kubectl.apply(hollow, bare, plain, *strangers(first))
    jobs = {**LIVE, **{name: tells.spec for name, tells in TELLS.items()}}
    installed.kubectl.apply(
        *(manifest(name, first, body) for name, body in jobs.items()), manifest("twin", second, LIVE["twin"])
    )
    made.began = datetime.now(UTC)
    yield made
    installed.kubectl("delete", "namespace", first, second, "--timeout=300s", timeout=330)


def condition(job: Raw | None, type_: str) -> Raw:
    found = ((job or {}).get("status") or {}).get("conditions") or []
    return next((one for one in found if one["type"] == type_), {})


def ran(job: Raw) -> datetime:
    """Since when its pods are ready; long ago where they are not."""
    found = condition(job, "PodsReady")
    ready = found.get("status") == "True"
    return datetime.fromisoformat(found["lastTransitionTime"]) if ready else datetime.min.replace(tzinfo=UTC)


def says(job: Raw | None, tells: Tells, namespace: str) -> bool:
    type_, status = tells.condition.split("=")
    found = condition(job, type_)
    parts = tells.sentence.replace("{ns}", namespace).split("…")
    pattern = ".*".join(re.escape(part) for part in parts)
    told = found.get("status"), found.get("reason")
    return told == (status, tells.reason) and re.fullmatch(pattern, found["message"]) is not None


@pytest.fixture(scope="module")
def told(arena: Arena) -> dict[str, Raw]:
    """The jobs, once all have said what they must, or the time is over."""
    latest: dict[str, Raw] = {}

    def look() -> bool:
        latest.update(arena.jobs())
        return all(says(latest.get(name), tells, arena.namespace) for name, tells in TELLS.items())

    wait_until(look, seconds=TOLD_SECONDS, interval=2)
    return latest


@pytest.mark.parametrize("name", TELLS)
def test_each_mistake_is_told_in_a_sentence(arena: Arena, told: dict[str, Raw], name: str) -> None:
    tells, job = TELLS[name], told.get(name)
    assert says(job, tells, arena.namespace), json.dumps((job or {}).get("status"), indent=1)


@pytest.mark.parametrize("mistake", REFUSED)
def test_the_api_server_refuses_with_a_sentence(arena: Arena, mistake: str) -> None:
    body, sentence = REFUSED[mistake]
    body = {**body, "metadata": {**body["metadata"], "namespace": arena.namespace}}
    with pytest.raises(LocalError, match=re.escape(sentence)):
        arena.cluster.kubectl.apply(body)


def test_two_jobs_of_one_name_in_two_namespaces_both_run(arena: Arena) -> None:
    for namespace in (arena.namespace, arena.other):
        arena.wait_phase("twin", "Complete", seconds=600, namespace=namespace)


def test_a_program_that_prints_100_megabytes_ends_well(arena: Arena) -> None:
    arena.wait_phase("printer", "Complete", seconds=600)


def test_a_job_starts_as_soon_as_its_environment_exists(arena: Arena) -> None:
    missing = condition(arena.job("late-environment"), "Stalled")
    assert missing["message"].startswith("TrainingEnvironment late does not exist")
    arena.cluster.kubectl.apply(local_environment(arena.cluster, "late", arena.namespace))
    arena.wait_phase("late-environment", "Complete", seconds=600)


def test_a_job_goes_on_once_what_had_its_name_is_gone(arena: Arena) -> None:
    assert condition(arena.job("pushed-aside"), "Stalled")["reason"] == "NameConflict"
    arena.kubectl("delete", "pod", "pushed-aside-0-0", "--wait=true")
    # Tried again after 10, 20, 40, … 300 s: what is in the way is not ours, so nobody tells of its end.
    arena.wait_phase("pushed-aside", "Complete", seconds=600)


def test_a_broken_job_settles_to_one_write_a_minute_at_most(arena: Arena, told: dict[str, Raw]) -> None:
    arena.wait_phase("deaf", "Running", seconds=600)
    jobs = arena.jobs()
    # Many at once on a slow machine: the minute begins when the operator first did something about a job, and
    # for one whose pods run, when they did.
    begins = {
        name: max(arena.writes(name)[0].time, ran(jobs[name])) + FIRST_MINUTE
        for name in sorted({*TELLS, *LIVE} - MOVED)
    }
    arena.log.wait_for(max(begins.values()) + WINDOW, seconds=600)
    allowed = WINDOW / timedelta(minutes=1)
    for name, begin in begins.items():
        late = [one for one in arena.writes(name) if begin <= one.time < begin + WINDOW]
        assert len(late) <= allowed, f"{name}: {[str(one) for one in late]}"


@pytest.mark.parametrize("name", ["crashes", "crashes-mlenv"])
def test_a_program_that_always_fails_at_once_is_tried_ever_less_often(arena: Arena, name: str) -> None:
    arena.log.wait_for(arena.began + FIRST_MINUTE + WINDOW, seconds=600)
    words = re.compile(r"follows in (\d+) s, because the last ones were short \(restart \d+ of 1000\)")
    seen: list[Raw] = []

    def waits() -> int:
        """Seconds between the last attempt and the next; 0 when it does not wait now."""
        seen.append(arena.job(name)["status"])
        found = words.search(condition({"status": seen[-1]}, "Restarting").get("message", ""))
        return int(found[1]) if found else 0

    assert wait_until(lambda: waits() >= 80, seconds=600, interval=1), seen[-1]
    # Three at once, then after 10, 20, 40, 80, 160 … s: the seventh is the one that waits for 80.
    message = condition({"status": seen[-1]}, "Restarting")["message"]
    expected = 7 + math.log2(int(words.findall(message)[0]) / 80)
    assert abs(seen[-1]["attempt"]["number"] - expected) <= 2, seen[-1]
    assert len(arena.pods(name)) <= 1


def test_others_do_not_notice(arena: Arena) -> None:
    arena.wait_phase("good", "Complete", seconds=600)
    status = arena.job("good")["status"]
    assert status["attempt"]["number"] == 1
    assert status.get("restarts", {}).get("total", 0) == 0
    assert {one["metadata"]["name"] for one in arena.pods("good")} == {"good-0-0", "good-1-0"}


def test_the_operator_is_well(arena: Arena) -> None:
    selector = ("-n", platform.NAMESPACE, "-l", "app.kubernetes.io/component=operator")
    since = f"--since-time={arena.began:%Y-%m-%dT%H:%M:%SZ}"
    logs = arena.cluster.kubectl("logs", *selector, "--tail=-1", since)
    assert "a mistake in this program" not in logs


def test_deletion_leaves_nothing_but_what_is_not_ours(arena: Arena) -> None:
    """The deaf program too: SIGTERM is forwarded to it, and SIGKILL comes when the grace is over."""
    arena.kubectl("delete", names.TRAINING_JOBS, "--all", "--timeout=300s", timeout=330)
    ours = ("-l", f"{names.LABEL_MANAGED_BY}={names.LABEL_MANAGED_BY_VALUE}", "-o", "name")

    def left() -> list[str]:
        return arena.kubectl("get", "pods,services", *ours).split()

    assert wait_until(lambda: not left(), seconds=300, interval=1), left()
    kept = arena.kubectl("get", "pods,services", "-o", "name").split()
    assert kept == ["pod/foreign-pod-0-0", "service/foreign-service"]
