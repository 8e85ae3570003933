"""What armed checks say of checkpoints becomes status, a condition and events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fake_cluster import checkpoint
from runs import Run
from worlds import heard

from mlenv_api.checkpoints import MAX_FAILED, MAX_REASON, FailedCheck
from mlenv_api.protocol import Beat, Judged, Origin
from mlenv_api.trainingjob import AttemptState, CheckpointStatus
from mlenv_operator.core.answers import matters

if TYPE_CHECKING:
    from fake_cluster import FakeLauncher

COLLAPSED = {"embedding_collapse": "rows of net.weight are alike (mean cosine 1.000)"}
SPOOL = {"spool": {"volumeClaimName": "claim"}}


class Armed(Run):
    """A job whose program has armed some of its checks."""

    def seals(self, step: int, **doubts: str) -> Armed:
        for launcher in self.launchers:
            launcher.armed = True
            if doubts:
                launcher.doubt(step, **doubts)
            else:
                launcher.seal(step)
        self.after(30).beat()
        return self

    def fails(self, exit_code: int) -> Armed:
        self.after(100)
        self.launchers[0].fail(self.cluster.now, exit_code=exit_code, message="the state is not sane")
        self.beat().beat()
        return self

    @property
    def launchers(self) -> list[FakeLauncher]:
        return [found for name in self.names() if (found := self.cluster.launcher_of(name))]

    @property
    def record(self) -> CheckpointStatus:
        return self.status.checkpoint or CheckpointStatus()

    @property
    def steps(self) -> tuple[int | None, int | None, int | None]:
        """Of what is sealed, sane and doubted."""
        found = self.record
        return tuple(one and one.step for one in (found.sealed, found.sane, found.insane))  # type: ignore[return-value]

    @property
    def told(self) -> bool:
        return any(one.type == "CheckpointSane" for one in self.status.conditions)

    def events(self) -> list[tuple[str, bool]]:
        found = [one for one in self.operator.events if one.reason.startswith("SanityCheck")]
        return [(one.reason.value, one.warning) for one in found]


def armed(**spec: object) -> Armed:
    run = Armed(**spec)
    run.running()
    return run


def test_a_sane_checkpoint_is_recorded_with_what_is_sealed_and_costs_no_write_of_its_own() -> None:
    checked, plain = armed(), Armed()
    plain.running()
    for step in (10, 20, 30):
        checked.seals(step)
        for launcher in plain.launchers:
            launcher.seal(step)
        plain.after(30).beat()
    assert checked.steps == (30, 30, None)
    assert checked.record.sane == checked.record.sealed
    assert checked.condition("CheckpointSane")[:2] == ("True", "SanityChecksPassed")
    assert checked.events() == []
    assert checked.cluster.writes == plain.cluster.writes
    assert plain.steps == (30, None, None)
    assert not plain.told


def test_one_that_fails_a_check_is_a_condition_and_an_event_and_not_gone_on_from() -> None:
    run = armed().seals(4).seals(6, **COLLAPSED)
    assert run.steps == (4, 4, 6)
    assert run.record.insane is not None
    assert run.record.insane.failed == (
        FailedCheck(check="embedding_collapse", message=COLLAPSED["embedding_collapse"]),
    )
    assert run.condition("CheckpointSane") == (
        "False",
        "SanityCheckFailed",
        (
            "the checkpoint of step 6, saved by attempt 1, is not sane: embedding_collapse: rows of "
            "net.weight are alike (mean cosine 1.000). Nothing goes on from it, and the newest good one is "
            "that of step 4. Look at what it learnt from last, or disarm the check"
        ),
    )
    assert run.state is AttemptState.RUNNING
    assert run.events() == [("SanityCheckFailed", True)]
    run.seals(8, **COLLAPSED)
    assert run.steps == (4, 4, 8)
    assert "step 8" in run.condition("CheckpointSane")[2]
    assert len(run.events()) == 1, "the same again is no news"
    run.seals(10, **COLLAPSED, loss_spike="loss is 20 deviations above its median 1")
    assert len(run.events()) == 2


def test_when_the_next_one_is_sane_that_is_said_once() -> None:
    run = armed().seals(6, **COLLAPSED)
    assert "there is no other" in run.condition("CheckpointSane")[2]
    run.seals(8).seals(10)
    assert run.steps == (10, 10, None)
    assert run.condition("CheckpointSane")[0] == "True"
    assert run.events() == [("SanityCheckFailed", True), ("SanityChecksPassed", False)]


def test_it_is_said_over_a_rollback_until_the_next_attempt_has_a_sane_one() -> None:
    run = armed(checkpoint=SPOOL).seals(4).seals(8, **COLLAPSED).fails(77)
    assert run.record.ceiling_step == 4
    assert run.condition("CheckpointSane")[0] == "False"
    for launcher in run.launchers:
        launcher.sealed = checkpoint(4, 1)
    run.after(30).beat()
    assert run.steps == (4, 4, 8), "what it goes on from is older than what is doubted"
    run.seals(6)
    assert run.record.sane is not None
    assert (run.record.sane.step, run.record.sane.attempt) == (6, 2)
    assert run.condition("CheckpointSane")[0] == "True"
    assert run.events()[-1] == ("SanityChecksPassed", False)


def test_an_attempt_that_ends_at_once_has_still_said_what_was_wrong() -> None:
    run = armed(checkpoint=SPOOL).seals(4)
    for launcher in run.launchers:
        launcher.doubt(6, **COLLAPSED)
    run.fails(77)
    assert run.steps == (4, 4, 6)
    assert run.events() == [("SanityCheckFailed", True)]


def test_a_new_start_over_what_was_never_sane_says_why() -> None:
    run = armed(checkpoint=SPOOL)
    for launcher in run.launchers:
        launcher.step = 7
    run.seals(6, **COLLAPSED).fails(77)
    run.launchers[0].origin = Origin()
    run.beat()
    (said,) = (one.message for one in run.operator.events if one.reason == "CheckpointsLost")
    assert said == "attempt 2 starts at step 0, and 7 committed steps are lost: no checkpoint was sane"


def test_each_attempt_that_fails_is_said() -> None:
    run = armed(checkpoint=SPOOL).seals(4).seals(8, **COLLAPSED).fails(77).seals(8, **COLLAPSED)
    assert run.events() == [("SanityCheckFailed", True)] * 2


def test_where_checks_are_not_armed_any_more_there_is_no_condition() -> None:
    run = armed(checkpoint=SPOOL).seals(4).seals(6, **COLLAPSED).fails(1)
    for launcher in run.launchers:
        launcher.armed = False
        launcher.seal(9)
    run.after(30).beat()
    assert run.steps == (9, 4, None)
    assert not run.told
    assert run.events() == [("SanityCheckFailed", True)]


def test_a_finished_job_says_what_was_said_last() -> None:
    run = armed().seals(4).seals(6, **COLLAPSED)
    run.finish()
    assert run.state is AttemptState.COMPLETE
    assert run.condition("CheckpointSane")[:2] == ("False", "SanityCheckFailed")


def test_what_an_older_attempt_saved_is_not_judged_again() -> None:
    run = armed(checkpoint=SPOOL).seals(4).fails(1)
    for launcher in run.launchers:
        launcher.judged = Judged(checkpoint=checkpoint(9, 1), failed=(FailedCheck(check="probe"),))
    run.after(30).beat()
    assert run.steps == (4, 4, None)


def test_pods_that_go_take_what_was_sane_along() -> None:
    run = armed().seals(4).seals(6, **COLLAPSED)
    run.cluster.edit(suspend=True)
    run.settle()
    for name in run.names():
        run.cluster.finish_deletion(name)
    run.settle()
    assert run.state is AttemptState.SUSPENDED
    assert run.steps == (None, None, 6)


def test_words_of_a_program_are_one_line_without_secrets_and_fit() -> None:
    run = armed().seals(6, probe=f"it raised KeyError:\n token=a b=2 {'x' * (MAX_REASON - 40)}")
    assert run.record.insane is not None
    (found,) = run.record.insane.failed
    assert found.message.startswith("it raised KeyError: token=*** b=2 xxx")
    assert len(found.message) <= MAX_REASON
    run.seals(8, **{f"check_{number}": "é" * MAX_REASON for number in range(MAX_FAILED)})
    assert len(run.condition("CheckpointSane")[2]) <= 2048


def test_a_verdict_is_looked_at_at_once() -> None:
    one = heard()
    judged = Judged(checkpoint=checkpoint(6, 1), failed=(FailedCheck(check="probe"),))
    assert matters(one, one.beat.model_copy(update={"judged": judged}))
    assert not matters(one, Beat.model_validate_json(one.beat.model_dump_json()))
