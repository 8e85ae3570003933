"""The pure parts of the benchmarks: what they say must be right before it is worth measuring."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from crowd import jobs
from crowd.machine import Look, spent
from crowd.setup import fake_nodes
from crowd.timeline import Timeline, quantile, waits
from crowd.writes import Moments, bill, moments

from mlenv_api import names
from mlenv_local import fakenodes
from mlenv_local.audit import Write

ROOT = Path(__file__).parents[3]
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
US, THEM = "us", "them"


def test_a_gang_is_created_with_its_last_pod_and_running_with_the_last_that_runs() -> None:
    line = Timeline(pods=2)
    line.submit("a", 1.0)
    line.saw_pod("a", "a-0", "Running", 2.0)
    line.saw_pod("a", "a-0", "Running", 2.5)
    assert line.missing("created") == ["a"]
    line.saw_pod("a", "a-1", "Pending", 3.0)
    line.saw_pod("a", "a-1", "Pending", 3.5)
    assert line.waits("created") == [2.0]
    line.saw_pod("a", "a-1", "Succeeded", 5.0)  # it ran, even if nobody saw it
    assert line.waits("running") == [4.0]
    assert (line.created, line.running, line.done) == (1, 1, 0)


def test_an_end_counts_once_and_failures_are_kept() -> None:
    line = Timeline(pods=1)
    line.submit("a", 0.0)
    line.submit("b", 0.0)
    line.saw_end("a", 4.0)
    line.saw_end("a", 9.0)
    line.saw_end("b", 5.0, "no")
    line.saw_end("stranger", 1.0)
    assert line.waits("done") == [4.0, 5.0]
    assert line.failed == {"b": "no"}
    assert line.done == 2


def test_a_rate_is_over_the_time_from_the_first_submission_to_the_last_gang() -> None:
    line = Timeline(pods=1)
    for number in range(4):
        line.submit(str(number), 10.0 + number)
        line.saw_pod(str(number), "p", "Pending", 12.0 + number * 2)
    assert line.per_second("created") == pytest.approx(4 / 8.0)
    assert line.per_second("running") == 0.0


def test_quantiles_are_values_that_were_seen() -> None:
    values = [float(one) for one in range(100, 0, -1)]
    assert (quantile(values, 0.5), quantile(values, 0.99), quantile([7.0], 0.99)) == (50.0, 99.0, 7.0)
    assert math.isnan(quantile([], 0.5))
    line = Timeline(pods=1)
    line.submit("a", 0.0)
    line.saw_pod("a", "p", "Pending", 1.25)
    assert waits(line, "created") == {"created_p50_s": 1.25, "created_p99_s": 1.25}


def write(user: str, verb: str, resource: str, name: str, at: float) -> Write:
    moment = BEGAN + timedelta(seconds=at)
    return Write(moment, user, "", verb, resource, "ns", name, 201 if verb == "create" else 200)


def test_writes_until_created_end_with_the_jobs_last_pod() -> None:
    log = [
        write(US, "patch", "trainingjobs/status", "g00000", 1),
        write(US, "create", "pods", "g00000-0-0", 2),
        write(US, "create", "pods", "g00000-1-0", 3),
        write(US, "patch", "trainingjobs/status", "g00000", 4),
        write(US, "create", "pods", "g00001-0-0", 5),
        write(US, "create", "events", "g00001.17f", 6),
        write(US, "update", "leases", "mlenv-operator", 4.5),
        write(US, "update", "leases", "mlenv-operator", 7),
        write(THEM, "patch", "pods/status", "g00000-0-0", 2.5),
    ]
    found = bill(log, 2, lambda one: one.user == US, lambda one: jobs.job_of(one.name))
    # 3 of the first job, 1 of the second, and the Lease once until the last pod of all.
    assert found.until_created == 5 / 2
    assert found.until_done == 8 / 2
    assert found.kinds["create pods"] == 1.5
    assert found.others == {THEM: 0.5}


def test_the_server_says_when_a_gang_was_created_and_ran() -> None:
    log = [
        write(US, "create", "pods", "g00000-0-0", 2),
        write(US, "create", "pods", "g00000-1-0", 3),
        write(US, "create", "pods/binding", "g00000-1-0", 4),
        write(fakenodes.USER, "patch", "pods/status", "g00000-0-0", 5),
        write(THEM, "patch", "pods/status", "g00000-1-0", 6),
        write(fakenodes.USER, "patch", "pods/status", "g00000-1-0", 7),
        write(fakenodes.USER, "patch", "pods/status", "g00000-1-0", 20),  # it ends
        write(US, "create", "pods", "g00001-0-0", 2),
        write(US, "create", "pods", "g00002-0-0", 8),
        write(US, "create", "pods", "g00002-1-0", 9),
    ]
    began = BEGAN.timestamp()
    found = moments(log, 2, lambda one: jobs.job_of(one.name))
    assert found == {"g00000": Moments(began + 3, began + 7), "g00002": Moments(began + 9, None)}


def test_the_servers_word_counts_and_how_late_the_watch_was_is_kept() -> None:
    line = Timeline(pods=1)
    for job in ("a", "b"):
        line.submit(job, 0.0)
        line.saw_pod(job, "p", "Running", 9.0)
    line.correct({"a": Moments(2.0, 3.0)})
    assert line.waits("created") == [2.0, 9.0]
    assert line.waits("running") == [3.0, 9.0]
    assert line.lags == [7.0]


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("g00012", "g00012"),
        ("g00012-0-0", "g00012"),
        ("g00012.18a", "g00012"),
        ("g000123", None),
        ("mlenv-operator", None),
        ("", None),
    ],
)
def test_objects_are_known_by_the_name_of_their_job(name: str, job: str | None) -> None:
    assert jobs.job_of(name) == job


def test_a_bare_gang_is_what_the_operator_makes_without_owner_and_finalizer() -> None:
    ours = jobs.training_jobs(3, 20)
    service, *pods = jobs.bare_gang(ours.manifest("g00000", "bare"))
    assert (service["kind"], [one["metadata"]["name"] for one in pods]) == (
        "Service",
        ["g00000-0-0", "g00000-1-0", "g00000-2-0"],
    )
    for one in (service, *pods):
        meta = one["metadata"]
        assert meta["namespace"] == "bare"
        assert not {"ownerReferences", "finalizers"} & meta.keys()
        assert meta["labels"][names.LABEL_MANAGED_BY] != names.LABEL_MANAGED_BY_VALUE
        assert meta["labels"][ours.label] == "g00000"


def test_a_gang_with_our_launcher_has_no_service() -> None:
    ours = jobs.training_jobs(2, None, "MLEnv")
    assert [one["kind"] for one in jobs.bare_gang(ours.manifest("g00000", "bare"))] == ["Pod", "Pod"]


def test_a_template_is_filled_in_and_read() -> None:
    path = ROOT / "benchmarks" / "peers" / "indexed-job.yaml"
    kind = jobs.from_template(path, "batch.kubernetes.io/job-name", "Complete", 4, 30)
    assert kind.resource.path("ns") == "/apis/batch/v1/namespaces/ns/jobs"
    made: dict[str, Any] = kind.manifest("g00001", "ns")
    assert (made["metadata"], made["spec"]["parallelism"]) == ({"name": "g00001", "namespace": "ns"}, 4)
    assert made["spec"]["template"]["metadata"]["annotations"] == {"local.mlenv.io/run-for": "30s"}
    assert "${" not in yaml.safe_dump(made)


def test_what_the_machine_did_besides_is_what_nobody_of_ours_used() -> None:
    before = Look(at=10.0, busy=100.0, programs={"etcd": 1.0, "kwok": 2.0})
    after = Look(at=20.0, busy=115.0, programs={"etcd": 3.0, "kwok": 2.0, "operator": 8.0})
    assert spent(before, after, processors=2) == {
        "operator": 0.4,
        "elsewhere": 0.25,
        "etcd": 0.1,
        "kwok": 0.0,
    }


def test_there_are_fake_nodes_for_all_pods_and_some_to_spare() -> None:
    assert fake_nodes(1) == 2
    assert fake_nodes(40_000) * 256 >= 44_000
