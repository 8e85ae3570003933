"""The Job that carries a last checkpoint: found, made, and remembered while its job is there."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mlenv_api import names
from mlenv_operator.adapters.overlay import Overlay
from mlenv_operator.core.actions import Drain
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import DrainState, JobKey, JobView
from mlenv_operator.kube.executor import Executor, Result
from mlenv_operator.kube.resources import JOBS
from mlenv_operator.runtime.clock import FakeClock

from .api import MemoryApi

NAME = names.drain_name("ranker", "u1")


def manifest(uid: str = "u1", **status: Any) -> dict[str, Any]:
    owner = {"kind": names.TRAINING_JOB, "name": "ranker", "uid": uid, "controller": True}
    metadata = {"namespace": "team", "name": NAME, "ownerReferences": [owner]}
    return {"kind": "Job", "metadata": metadata, "status": status}


def job(uid: str = "u1") -> JobView:
    metadata = {"namespace": "team", "name": "ranker", "uid": uid}
    return parse_job({"metadata": metadata, "spec": {"trainer": {"image": "i", "command": ["c"]}}})


def run(api: MemoryApi) -> Result:
    return asyncio.run(Executor(cast("Any", api)).run([Drain(manifest())]))


def test_it_is_made_once_and_then_only_read() -> None:
    api = MemoryApi()
    assert run(api).refusal is None
    assert run(api).refusal is None
    assert api.writes == [("create", "jobs", NAME)]


def test_how_it_fares_is_remembered_for_the_very_job_until_that_is_gone() -> None:
    api, overlay = MemoryApi(), Overlay(FakeClock())
    assert overlay.drain(job()) is None
    overlay.record(run(api).done)
    assert overlay.drain(job()) is DrainState.RUNNING
    for how in (DrainState.COMPLETE, DrainState.FAILED):
        api.add(JOBS, manifest(conditions=[{"type": how.value, "status": "True"}]))
        overlay.record(run(api).done)
        assert overlay.drain(job()) is how
    assert overlay.drain(job("u2")) is None, "another job of the same name has one of its own"
    overlay.forget(JobKey("team", "ranker"))
    assert overlay.drain(job()) is None


def test_somebody_elses_job_of_that_name_is_left_alone_and_told() -> None:
    api = MemoryApi()
    api.add(JOBS, manifest("somebody-else"))
    found = run(api)
    assert found.done == ()
    assert found.refusal is not None
    assert (found.refusal.reason, found.refusal.what) == ("NameConflict", f"Job {NAME}")
    assert api.writes == []


def test_its_name_fits_whatever_the_job_is_called() -> None:
    assert len(names.drain_name("a" * names.MAX_JOB_NAME, "0123456789")) <= 63
