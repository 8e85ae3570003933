"""The pure parts of ``benchmarks/live.py`` and ``footprint.py``, and a small run of the latter."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from crowd.scrape import histogram_quantile
from crowd.still import Still, running_job
from crowd.worlds import Worlds

from mlenv_api import names
from mlenv_local.audit import Write
from mlenv_operator.core.project import parse_job, project_pod

ROOT = Path(__file__).parents[3]


def stored(attempt: int, *incarnations: int, uid: str = "u1", state: str = "Running") -> dict[str, Any]:
    status = {"attempt": {"number": attempt, "state": state}, "incarnations": list(incarnations)}
    return {"metadata": {"uid": uid}, "status": status}


def created(name: str, code: int = 201) -> Write:
    return Write(datetime(2026, 1, 1, tzinfo=UTC), "us", "", "create", "pods", "ns", name, code)


def test_an_attempt_that_ran_in_two_sets_of_pods_had_two_worlds() -> None:
    worlds = Worlds()
    worlds.saw({"metadata": {"uid": "u1"}})
    for one in (stored(1, 0, 0), stored(1, 0, 0), stored(2, 1, 1), stored(2, 1, 2, state="Assembling")):
        worlds.saw(one)
    worlds.saw(stored(1, 7, 7, uid="u2"))
    assert worlds.double([]) == 0
    worlds.saw(stored(2, 1, 2))
    assert worlds.double([]) == 1


def test_a_place_that_two_pods_were_given_is_found_in_the_audit_log() -> None:
    log = [created("g00000-0-0"), created("g00000-0-0", 409), created("g00000-0-1"), created("g00000-1-0")]
    assert Worlds().double(log) == 0
    assert Worlds().double([*log, created("g00000-0-0")]) == 1


def test_a_quantile_of_a_histogram_is_the_bound_of_its_bucket_between_two_scrapes() -> None:
    def scrape(*counts: float) -> dict[str, float]:
        bounds = ("0.1", "0.5", "+Inf")
        return {f'lag_bucket{{le="{le}"}}': count for le, count in zip(bounds, counts, strict=True)}

    before, after = scrape(50, 50, 60), scrape(148, 150, 160)
    assert histogram_quantile(before, after, "lag", 0.98) == 0.1
    assert histogram_quantile(before, after, "lag", 0.99) == 0.5
    assert histogram_quantile({}, after, "lag", 1.0) == float("inf")
    assert histogram_quantile({}, after, "other", 0.5) == float("inf")


def test_what_stands_still_is_what_the_operator_stored() -> None:
    job, gang = running_job(3)
    view = parse_job(job)
    assert (view.problems, view.status.phase, len(gang)) == ((), "Running", 3)
    pods = [project_pod(one) for one in gang]
    assert [(one.job_uid, one.index, one.phase) for one in pods if one] == [
        (view.uid, index, "Running") for index in range(3)
    ]


def test_every_object_of_a_still_cluster_is_another() -> None:
    lists = Still(5, 3).lists
    pods = [json.loads(one) for one in lists["pods"]]
    jobs = [json.loads(one) for one in lists[names.TRAINING_JOBS]]
    assert (len(jobs), len(pods)) == (5, 15)
    assert len({one["metadata"]["uid"] for one in (*pods, *jobs)}) == 20
    assert len({one["status"]["podIP"] for one in pods}) == 15
    owners = {one["metadata"]["ownerReferences"][0]["uid"] for one in pods}
    assert owners == {one["metadata"]["uid"] for one in jobs}


@pytest.mark.timeout(300)
def test_a_cold_start_before_jobs_that_run_writes_nothing() -> None:
    argv = [sys.executable, str(ROOT / "benchmarks" / "footprint.py"), "--jobs=30", "--pods=2", "--rest=0"]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["jobs"], found["writes"]) == (30, 0)
    assert found["rss_mb"] > 0
