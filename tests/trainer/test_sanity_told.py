"""What armed checks say reaches the job's status: ranks, launchers and the operator's core are real."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from gangs import SCRIPT, rows
from operated import Platform
from rig import until

from mlenv_api.trainingjob import AttemptState

if TYPE_CHECKING:
    from pathlib import Path

    from rig import Rig

pytestmark = pytest.mark.slow


def platform(rig: Rig, out: Path, **env: str) -> Platform:
    out.mkdir()
    program = [str(SCRIPT), str(out), str(rows(rig.folder)), "40"]
    return Platform(rig, "ranker", program, nodes=2, EVERY="5", **env)


def test_the_job_says_what_is_not_sane_and_that_it_is_again(rig: Rig, tmp_path: Path) -> None:
    job = platform(rig, tmp_path / "insane", INSANE="7", ARMED="metric_floor")
    try:
        job.attempt_in(AttemptState.COMPLETE, least=2)
        until(lambda: job.status.checkpoint and job.status.checkpoint.insane is None, "the last verdict")
        record = job.status.checkpoint
        assert record is not None
        assert record.sane is not None
        assert record.sealed is not None
        assert (record.sane.digest, record.sane.attempt) == (record.sealed.digest, 2)
        conditions = {one.type: (one.status, one.reason) for one in job.status.conditions}
        assert conditions["CheckpointSane"] == ("True", "SanityChecksPassed")
        said = [one for one in job.operator.events if one.reason.startswith("SanityCheck")]
        assert [one.reason for one in said] == ["SanityCheckFailed", "SanityChecksPassed"]
        assert "is not sane: metric_floor: quality is 0, less than 0.5" in said[0].message
        assert "the newest good one is that of step 5" in said[0].message
        assert job.errors == []
    finally:
        job.close()


def test_where_none_was_ever_sane_the_next_attempt_begins_anew(rig: Rig, tmp_path: Path) -> None:
    job = platform(rig, tmp_path / "never", INSANE="1", ARMED="metric_floor")
    try:
        job.attempt_in(AttemptState.COMPLETE, least=2)
        assert [one.reason for one in reversed(job.status.attempts)] == ["RolledBack", "Completed"]
        assert job.status.attempts[0].resumed_from == 0
        said = [one.message for one in job.operator.events if one.reason == "CheckpointsLost"]
        assert [one.rpartition(": ")[2] for one in said] == ["no checkpoint was sane"]
        text = job.launchers["ranker-0-0"].text()
        assert "to go back to the beginning, as no checkpoint was sane" in text
        assert "warning: training begins anew. none of the" in text
        assert "fresh start at step 0 (no sane checkpoint in" in text
        assert job.errors == []
    finally:
        job.close()


def test_checks_that_only_observe_are_not_told(rig: Rig, tmp_path: Path) -> None:
    job = platform(rig, tmp_path / "observed", INSANE="7", ARMED="")
    try:
        job.attempt_in(AttemptState.COMPLETE)
        record = job.status.checkpoint
        assert record is not None
        assert record.sealed is not None
        assert (record.sane, record.insane) == (None, None)
        assert "CheckpointSane" not in {one.type for one in job.status.conditions}
        logs = [launcher.text() for launcher in job.launchers.values()]
        assert any("observed: metric_floor: quality is 0" in text for text in logs)
    finally:
        job.close()
