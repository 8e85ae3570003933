"""What attempts run from: proposed by rank 0, stored once, and told only from what is stored."""

from __future__ import annotations

from typing import Any

import pytest
from fake_cluster import checkpoint
from runs import Run

from mlenv_api.protocol import LauncherPhase, Origin
from mlenv_api.trainingjob import AttemptState, CheckpointStatus

SPOOL = {"spool": {"volumeClaimName": "claim"}}


class Training(Run):
    """A job whose program takes checkpoints."""

    def begin(self, step: int | None = None, saved_by: int = 1, *, lost: bool = False) -> Training:
        """Rank 0 of the running attempt proposes a checkpoint, or a fresh start."""
        chosen = None if step is None else checkpoint(step, saved_by)
        self.first.origin = Origin(checkpoint=chosen, lost=lost)
        self.beat()
        return self

    def train(self, step: int, *, seals: int | None = None) -> Training:
        for launcher in self.cluster.launchers.values():
            launcher.step = step
            if seals is not None:
                launcher.seal(seals)
        self.after(30).beat()
        return self

    def fails(self, exit_code: int = 1, *, after: float = 100) -> Training:
        self.after(after)
        self.first.fail(self.cluster.now, exit_code=exit_code, message="boom")
        self.beat().beat()
        return self

    def goes(self) -> Training:
        self.running()
        return self

    @property
    def first(self) -> Any:
        name = next(name for name in self.names() if name.startswith("ranker-0-"))
        return self.launcher(name)

    @property
    def record(self) -> CheckpointStatus:
        return self.status.checkpoint or CheckpointStatus()

    @property
    def number(self) -> int:
        assert self.status.attempt is not None
        return self.status.attempt.number

    def events(self, reason: str) -> list[str]:
        return [one.message for one in self.operator.events if one.reason == reason]


def training(**spec: Any) -> Training:
    return Training(**spec).goes()


def test_a_first_fresh_start_is_recorded_and_told_without_noise() -> None:
    run = training()
    assert run.first.told.origin is None
    run.begin()
    assert run.status.attempt is not None
    assert run.status.attempt.origin is not None
    assert run.status.attempt.origin.checkpoint is None
    assert run.first.told.origin == Origin()
    assert run.condition("PodsReady")[1:] == ("AllPodsReady", "attempt 1 runs: 2 pods on n1, n2")
    assert run.events("Resumed") == run.events("CheckpointsLost") == []


def test_an_attempt_goes_on_from_what_was_sealed_and_the_ledger_says_what_was_lost() -> None:
    run = training().begin().train(1120, seals=1000).fails()
    assert run.number == 2
    assert run.record.sealed is not None
    assert (run.record.sealed.step, run.record.sealed.attempt) == (1000, 1)
    assert run.first.told.past == checkpoint(1000, 1)
    run.begin(1000)
    assert run.first.told.origin == Origin(checkpoint=checkpoint(1000, 1))
    assert [(one.resumed_from, one.last_step, one.lost_steps) for one in run.status.attempts] == [
        (0, 1120, 120)
    ]
    assert run.events("Resumed") == [
        "attempt 2 goes on from step 1000, saved by attempt 1; 120 steps are done again"
    ]
    assert run.status.progress is not None
    assert (run.status.progress.step, run.status.progress.samples) == (1000, 32000)
    run.train(1300).fails()
    assert run.status.attempts[0].resumed_from == 1000


def test_the_first_proposal_stands() -> None:
    run = training().begin().train(1120, seals=1000).fails().begin(1000)
    run.begin(900)
    assert run.first.told.origin == Origin(checkpoint=checkpoint(1000, 1))
    assert len(run.events("Resumed")) == 1


def test_only_the_first_launcher_of_the_current_attempt_proposes() -> None:
    run = training()
    run.launcher("ranker-1-0").origin = Origin()
    run.beat()
    assert run.status.attempt is not None
    assert run.status.attempt.origin is None
    run.begin().train(50).fails()
    run.first.attempt, run.first.origin = 1, Origin(checkpoint=checkpoint(9, 1))
    run.operator.hear(next(iter(run.cluster.launchers)))
    run.settle()
    assert run.number == 2
    assert run.status.attempt.origin is None


def test_what_was_proposed_for_the_attempt_before_is_no_proposal_for_this_one() -> None:
    run = training().begin().train(50, seals=40)
    run.first.fail(run.cluster.now)
    run.beat(hear_twice=False)
    assert (run.number, run.state) == (2, AttemptState.ASSEMBLING)
    for uid in list(run.cluster.launchers):
        run.operator.hear(uid)
    run.first.origin = Origin()  # its launcher has not forgotten it
    run.beat(hear_twice=False)
    assert run.state is AttemptState.RUNNING
    assert run.status.attempt is not None
    assert run.status.attempt.origin is None
    run.beat(hear_twice=False)
    run.begin(40)
    assert run.first.told.origin == Origin(checkpoint=checkpoint(40, 1))


def test_a_checkpoint_that_is_there_when_an_attempt_ends_is_in_the_status_that_ends_it() -> None:
    run = training().begin().train(500, seals=400)
    run.launcher("ranker-1-0").seal(800)
    run.first.fail(run.cluster.now)
    for uid in list(run.cluster.launchers):
        run.operator.hear(uid)
    run.operator.step()
    assert run.number == 2
    assert run.record.sealed is not None
    assert run.record.sealed.step == 800


def test_an_attempt_that_sealed_refills_the_budget_and_one_that_did_not_uses_it_up() -> None:
    run = training(failurePolicy={"maxRestarts": 2}).begin()
    for step in (100, 200, 300, 400):
        run.train(step + 5, seals=step).fails(after=0).begin(step, run.number - 1)
        assert run.status.restarts.counted == 1
        assert run.status.restarts.without_progress == 0
        assert run.status.attempt is not None
        assert run.status.attempt.not_before is None, "short, but it got on"
    run.fails().begin(400, 4)
    assert (run.status.restarts.counted, run.status.restarts.without_progress) == (2, 1)
    run.fails()
    assert run.state is AttemptState.FAILED
    assert run.status.restarts.total == 5


def test_a_suspension_without_a_spool_takes_the_checkpoints_along_and_says_so() -> None:
    run = training().begin().train(1120, seals=1000)
    suspend(run)
    assert run.record.sealed is None
    assert "up to step 1000" in run.events("CheckpointsLost")[0]
    assert "spec.checkpoint.spool" in run.events("CheckpointsLost")[0]
    resume(run).begin()
    assert run.first.told.past is None
    assert run.status.attempts[0].lost_steps == 1120
    assert run.events("CheckpointsLost")[1] == (
        "attempt 2 starts at step 0, and 1120 committed steps are lost: there is no checkpoint."
        " A volume in spec.checkpoint.spool keeps them"
    )


def test_a_suspension_with_a_spool_keeps_them_also_what_is_saved_at_the_last_moment() -> None:
    run = training(checkpoint=SPOOL).begin().train(1120, seals=1000)
    run.cluster.edit(suspend=True)
    run.settle()
    for launcher in run.cluster.launchers.values():
        launcher.seal(1130)
    run.beat(hear_twice=False)
    suspend(run)
    assert run.record.sealed is not None
    assert (run.record.sealed.step, run.record.spool) == (1130, "claim")
    assert run.events("CheckpointsLost") == []
    resume(run)
    assert run.first.told.past == checkpoint(1130, 1)


def test_a_gang_that_is_released_loses_what_lived_in_its_pods() -> None:
    run = training(scheduling={"assemblyTimeoutSeconds": 60}).begin().train(120, seals=100).fails()
    run.begin(100)
    run.cluster.end_pod("ranker-1-0", 1)
    run.settle().after(61).settle()
    assert run.state is AttemptState.QUEUED
    assert run.record.sealed is None
    assert "up to step 100" in run.events("CheckpointsLost")[0]


def test_pods_that_took_their_checkpoints_along_are_told_by_the_trainer() -> None:
    run = training().begin().train(1120, seals=1000).fails().begin(lost=True)
    assert run.record.sealed is None
    assert run.status.attempts[0].lost_steps == 1120
    (message,) = run.events("CheckpointsLost")
    assert message == (
        "attempt 2 starts at step 0, and 1120 committed steps are lost: the checkpoints lived in pods that"
        " are gone. A volume in spec.checkpoint.spool keeps them"
    )
    run.train(60, seals=50)
    assert run.record.sealed is not None
    assert run.record.sealed.step == 50


def test_a_newer_checkpoint_that_could_not_be_used_is_not_counted_on_again() -> None:
    run = training().begin().train(1120, seals=1000).fails().begin(800)
    assert run.record.sealed is not None
    assert run.record.sealed.step == 800
    assert "The checkpoint of step 1000 could not be used" in run.events("CheckpointsLost")[0]
    run.train(950, seals=900)
    assert (run.record.sealed.step, run.record.sealed.attempt) == (900, 2)


@pytest.mark.parametrize("policy", ["Never", "From"])
def test_starting_over_is_obeyed_once_for_each_spec_that_asks(policy: str) -> None:
    run = training(checkpoint=SPOOL).begin().train(1120, seals=1000)
    suspend(run)
    wanted = {"policy": policy, **({"from": "/ckpt/x"} if policy == "From" else {})}
    run.cluster.edit(checkpoint={**SPOOL, "resume": wanted})
    resume(run)
    assert (run.first.told.since_attempt, run.first.told.past) == (2, None)
    assert f"starts over, as resume.policy {policy} asks" in run.events("Resumed")[0]
    run.begin(*((5000, 7) if policy == "From" else ()))
    assert run.status.attempts[0].lost_steps is None
    assert run.events("CheckpointsLost") == []
    assert run.record.sealed is None, "what resume.from names is not the job's own"
    run.train(5300, seals=5200).fails().begin(5200, 2)
    assert run.first.told.since_attempt == 2
    suspend(run)
    resume(run)
    assert (run.first.told.since_attempt, run.first.told.past) == (2, checkpoint(5200, 2))


def test_exit_code_77_goes_back_to_the_newest_checkpoint_and_then_before_it() -> None:
    run = training().begin().train(1120, seals=1000).train(1500).fails(77)
    assert (run.record.ceiling_step, run.first.told.ceiling_step) == (1000, 1000)
    assert run.status.attempts[0].reason == "RolledBack"
    assert "rolled back to step 1000, the newest checkpoint. Attempt 2" in run.events("RolledBack")[0]
    run.begin(1000).train(1500).fails(77)
    assert (run.record.ceiling_step, run.status.restarts.counted) == (999, 2)
    assert run.first.told.past == checkpoint(1000, 1), "a past is known: no fresh start in silence"
    assert "It ran from step 1000 and sealed nothing newer" in run.events("RolledBack")[1]
    run.begin(800)
    assert run.record.sealed is not None
    assert (run.record.sealed.step, run.record.ceiling_step) == (800, 999)
    assert run.events("CheckpointsLost") == []
    run.train(950, seals=900)
    assert (run.record.sealed.step, run.record.ceiling_step) == (900, 999)
    run.train(1250, seals=1200)
    assert (run.record.sealed.step, run.record.ceiling_step) == (1200, 1200), "the abandoned stay barred"


def test_a_program_that_goes_bad_at_the_same_step_each_time_comes_to_an_end() -> None:
    run = training(failurePolicy={"maxRestarts": 3}).begin()
    steps = [(1000, 1), None, (1000, 3), None, (1000, 5), None]
    for seals in steps:
        run.train(1400, seals=seals[0] if seals else None).fails(77)
        if run.state is AttemptState.FAILED:
            break
        ceiling = run.record.ceiling_step
        run.begin(1000 if ceiling == 1000 else 800, 1 if ceiling != 1000 else run.number - 1)
    assert run.state is AttemptState.FAILED
    assert run.number <= 5


def test_exit_code_77_without_any_checkpoint_starts_over_at_the_cost_of_the_budget() -> None:
    run = training(failurePolicy={"maxRestarts": 1}).begin().train(100).fails(77)
    assert run.record.ceiling_step is None
    assert "No checkpoint is known that could be gone back to" in run.events("RolledBack")[0]
    run.begin().fails(77)
    assert run.state is AttemptState.FAILED


def test_an_operator_that_begins_anew_hears_again_what_was_sealed() -> None:
    run = training().begin()
    for launcher in run.cluster.launchers.values():
        launcher.seal(700)
    run.operator.beats.clear()
    run.after(30).beat()
    assert run.record.sealed is not None
    assert run.record.sealed.step == 700


def suspend(run: Training) -> Training:
    run.cluster.edit(suspend=True)
    run.settle()
    for _ in range(2):
        for name in run.names():
            run.cluster.finish_deletion(name)
        run.settle()
    assert run.state is AttemptState.SUSPENDED
    return run


def resume(run: Training) -> Training:
    run.cluster.edit(suspend=False)
    run.goes()
    assert run.first.phase is LauncherPhase.RUNNING
    return run
