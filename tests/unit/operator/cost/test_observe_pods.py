"""Pods and jobs of the API server as facts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from worlds import NOW, ago, pod, raw_job, raw_pod, stamp

from mlenv_operator.adapters.jobs import JobCache
from mlenv_operator.core.project import parse_job, project_pod
from mlenv_operator.core.world import JobKey
from mlenv_operator.cost.facts import HOUR, Attribution
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.observe_jobs import attributed, attribution
from mlenv_operator.cost.observe_pods import pod_fact
from mlenv_operator.cost.resources import Held, of_pod

if TYPE_CHECKING:
    from mlenv_operator.cost.facts import Pod

SCHEDULED = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(ago(100))}]


def fact(*, gone: float | None = None, **changes: Any) -> Pod:
    view = project_pod(raw_pod(conditions=SCHEDULED, **changes))
    assert view is not None
    found = pod_fact(view, "node-uid", gone=None if gone is None else micros(ago(gone)))
    assert found is not None
    return found


def ended(*, started: float | None = 90, finished: float | None = 5) -> dict[str, Any]:
    times = {"startedAt": started, "finishedAt": finished}
    return {
        "terminated": {"exitCode": 1, **{key: stamp(ago(at)) for key, at in times.items() if at is not None}}
    }


def seconds(found: Pod) -> tuple[float | None, ...]:
    """How long ago it was scheduled, started, finished, released."""
    times = (found.scheduled, found.started, found.finished, found.released)
    return tuple(None if at is None else (micros(NOW) - at) / 1e6 for at in times)


def test_a_pod_holds_from_its_scheduling_on() -> None:
    assert seconds(fact()) == (100, 90, None, None)
    assert seconds(fact(phase="Pending", state={})) == (100, None, None, None)


def test_a_pod_without_a_node_is_no_fact() -> None:
    assert pod_fact(pod(conditions=[]), "node-uid") is None
    assert pod_fact(pod(conditions=SCHEDULED), "") is None


def test_a_pod_that_ended_is_released_when_its_last_container_ended() -> None:
    assert seconds(fact(phase="Failed", state=ended())) == (100, 90, 5, 5)
    courier = {
        "containerStatuses": [{"name": "trainer", "state": ended(finished=20)}],
        "initContainerStatuses": [{"name": "courier", "state": ended(finished=7)}],
    }
    assert seconds(fact(phase="Failed", status=courier)) == (100, 90, 7, 7)
    assert seconds(fact(phase="Running", status=courier)) == (100, 90, None, None)


def test_a_pod_that_nobody_saw_end_is_released_by_its_deletion_or_when_it_was_gone() -> None:
    killed = {"deletionTimestamp": stamp(ago(30)), "deletionGracePeriodSeconds": 0}
    assert seconds(fact(**killed)) == (100, 90, None, 30)
    asked = {"deletionTimestamp": stamp(ago(10)), "deletionGracePeriodSeconds": 30}
    assert seconds(fact(**asked)) == (100, 90, None, None)
    assert seconds(fact(gone=3, **asked)) == (100, 90, None, 3)
    evicted = {"phase": "Failed", "status": {"containerStatuses": []}}
    assert seconds(fact(**evicted)) == (100, None, None, None)
    assert seconds(fact(gone=4, **evicted)) == (100, None, None, 4)


def test_what_a_pod_holds_is_what_the_scheduler_sets_aside() -> None:
    def asks(requests: dict[str, str], limits: dict[str, str] | None = None, **more: str) -> dict[str, Any]:
        return {"resources": {"requests": requests, "limits": limits or {}}, **more}

    trainer = asks({"cpu": "7500m", "memory": "10Gi"}, {"nvidia.com/gpu": "4", "memory": "12Gi"})
    sidecar = asks({"cpu": "1", "memory": "1Gi"}, restartPolicy="Always")
    setup = asks({"cpu": "100", "memory": "1"})
    assert of_pod({"containers": [trainer]}) == Held(4, 7500, 10 << 30)
    assert of_pod({"containers": [trainer], "initContainers": [sidecar]}) == Held(4, 8500, 11 << 30)
    assert of_pod({"containers": [trainer], "initContainers": [sidecar, setup]}) == Held(4, 101_000, 11 << 30)
    assert of_pod({"containers": [trainer], "overhead": {"cpu": "250m"}}).cpu_milli == 7750
    assert of_pod({"containers": [trainer], "resources": {"requests": {"cpu": "9"}}}) == Held(
        4, 9000, 10 << 30
    )
    assert of_pod({"containers": [{}]}) is of_pod({"containers": [{}, {}]})


def test_a_job_belongs_to_whom_its_labels_say() -> None:
    labels = {
        "mlenv.io/team": "ads",
        "mlenv.io/model": "dcn",
        "mlenv.io/use-case": "ctr",
        "kueue.x-k8s.io/queue-name": "prod",
        "cost-center": "4711",
    }
    raw = raw_job()
    raw["metadata"] |= {"labels": labels, "annotations": {"mlenv.io/user": " ada@example.com\n"}}
    job = parse_job(raw)
    assert job.attribution == Attribution(
        job.key.namespace, job.key.name, job.uid, "ads", "dcn", "ctr", "ada@example.com", "prod"
    )
    assert attribution(raw["metadata"], keep=("cost-center", "other")).labels == (("cost-center", "4711"),)
    raw["metadata"] |= {"labels": {"mlenv.io/user": "ada"}, "annotations": {}}
    assert parse_job(raw).attribution.user == "ada"


def test_labels_that_a_setting_names_are_kept_with_the_charges() -> None:
    raw = raw_job()
    raw["metadata"] |= {"labels": {"cost-center": "4711", "app": "x"}}
    for keep, labels in (((), ()), (("cost-center", "none"), (("cost-center", "4711"),))):
        jobs = JobCache(keep)
        assert jobs.put(raw)
        view = jobs.get(JobKey(raw["metadata"]["namespace"], raw["metadata"]["name"]))
        assert view is not None
        assert view.attribution.labels == labels


def test_a_change_of_labels_counts_from_when_it_was_seen() -> None:
    before = Attribution("ns", "ranker", "uid", team="a")
    after = Attribution("ns", "ranker", "uid", team="b")
    first = attributed(before, HOUR, 2 * HOUR, None)
    assert first is not None
    assert (first.since, first.to, first.job_uid) == (HOUR, before, "uid")
    assert attributed(before, HOUR, 3 * HOUR, first) is None
    changed = attributed(after, HOUR, 3 * HOUR, first)
    assert changed is not None
    assert (changed.since, changed.to) == (3 * HOUR, after)
    backwards = attributed(before, HOUR, 2 * HOUR, changed)
    assert backwards is not None
    assert backwards.since == 3 * HOUR + 1


def test_moments_are_exact() -> None:
    assert micros(NOW + timedelta(microseconds=1)) == micros(NOW) + 1
