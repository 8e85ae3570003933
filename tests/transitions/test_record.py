"""The record of checkpoints under any order of events, in a gang that keeps coming together again."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from consistency import assert_origins_told, contradictions, plan_contradictions, record_contradictions
from fake_cluster import FakeCluster, FakeLauncher, checkpoint
from fake_operator import FakeOperator, restarted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mlenv_api.protocol import LauncherPhase, Origin
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import BeatView

if TYPE_CHECKING:
    from mlenv_api.trainingjob import TrainingJobStatus
    from mlenv_operator.core.actions import Plan
    from mlenv_operator.core.world import World

SPOOL = {"spool": {"volumeClaimName": "claim"}}
NODES = ("n1", "n2", "n3")
slots = st.integers(0, 1)


class Record(RuleBasedStateMachine):
    """Two nodes, a budget without end, and programs that save, propose, fail and go bad."""

    @initialize(spool=st.booleans())
    def create(self, *, spool: bool) -> None:
        trainer = {"image": "img:1", "command": ["train.py"], "numNodes": 2}
        spec = {"trainer": trainer, "failurePolicy": {"maxRestarts": 9999}}
        self.cluster = FakeCluster({**spec, "checkpoint": SPOOL if spool else {}})
        self.operator = FakeOperator(self.cluster, check=self._check)
        self.origins: dict[int, set[Any]] = defaultdict(set)
        self.forms()

    @rule()
    def forms(self) -> None:
        """All that is due happens, until the gang runs again."""
        for _ in range(4):
            self.cluster.now += timedelta(seconds=700)
            for place, name in enumerate(sorted(self.cluster.pods)):
                self.cluster.run_pod(name, NODES[place % 3])
            self.all_beat()
            for name in sorted(self.cluster.pods):
                self.cluster.finish_deletion(name)
            self.operator.settle()

    @rule()
    def all_beat(self) -> None:
        for uid in sorted(self.cluster.launchers):
            self.operator.hear(uid)

    @rule()
    def looks(self) -> None:
        self.cluster.now += timedelta(seconds=11)
        self.operator.settle()

    @rule()
    def the_operator_begins_anew(self) -> None:
        self.operator = restarted(self.operator)

    @rule(slot=slots, back=st.integers(0, 3), lost=st.booleans(), fresh=st.booleans())
    def proposes(self, slot: int, back: int, *, lost: bool, fresh: bool) -> None:
        launcher = self._running(slot)
        if launcher is None:
            return
        saved = launcher.attempt - 1 - back
        chosen = None if fresh or saved < 1 else checkpoint(100 * saved, saved)
        launcher.origin = Origin(checkpoint=chosen, lost=lost and chosen is None)
        self._speaks(slot)

    @rule(slot=slots, steps=st.integers(0, 300), armed=st.booleans())
    def seals(self, slot: int, steps: int, *, armed: bool) -> None:
        launcher = self._running(slot)
        if launcher is not None:
            launcher.armed = armed
            launcher.step += steps
            launcher.seal(launcher.step)
            self._speaks(slot)

    @rule(slot=slots, steps=st.integers(0, 300), check=st.sampled_from(["probe", "loss_spike"]))
    def seals_what_is_not_sane(self, slot: int, steps: int, check: str) -> None:
        launcher = self._running(slot)
        if launcher is not None:
            launcher.step += steps
            launcher.doubt(launcher.step, **{check: "it raised ValueError"})
            self._speaks(slot)

    @rule(at=st.sampled_from([None, "2026-01-31T12:00:00Z", "2026-01-31T13:00:00Z", "soon"]))
    def somebody_orders_a_checkpoint(self, at: str | None) -> None:
        self.cluster.order_checkpoint(at)
        self.operator.settle()

    @rule(slot=slots, step=st.integers(0, 900))
    def tells_of_one_that_an_older_attempt_saved(self, slot: int, step: int) -> None:
        launcher = self._running(slot)
        if launcher is not None and launcher.attempt > 1:
            launcher.sealed = checkpoint(step, launcher.attempt - 1)
            self._speaks(slot)

    @rule(slot=slots, step=st.integers(0, 10**6))
    def a_beat_of_an_older_attempt_comes_late(self, slot: int, step: int) -> None:
        launcher = self._running(slot)
        if launcher is not None and launcher.attempt > 1:
            old = checkpoint(step, launcher.attempt - 1)
            said = {"attempt": launcher.attempt - 1, "sealed": old, "origin": Origin(checkpoint=old)}
            beat = launcher.beat(self.cluster.now).model_copy(update=said)
            self.operator.beats[self._uid(slot)] = BeatView(beat, self.cluster.now)
            self.operator.settle()

    @rule(slot=slots, code=st.sampled_from([1, 76, 77, 77]))
    def fails(self, slot: int, code: int) -> None:
        launcher = self._running(slot)
        if launcher is not None:
            launcher.fail(self.cluster.now, exit_code=code, message="boom")
            self._speaks(slot)
            self.forms()

    @rule(slot=slots)
    def a_pod_is_lost_and_beats_on(self, slot: int) -> None:
        """Its launcher does not know yet, and is heard while it ends."""
        name = self._name(slot)
        if name is not None:
            self.cluster.delete_pod(name, self.cluster.pods[name]["metadata"]["uid"], by_operator=False)
            self.operator.settle()
            self.all_beat()
            self.operator.settle()

    @rule(suspend=st.booleans(), policy=st.sampled_from(["Auto", "Never", "From"]))
    def somebody_suspends_or_resumes(self, policy: str, *, suspend: bool) -> None:
        assert self.cluster.job is not None
        spec = self.cluster.job["spec"]
        resume = {"policy": policy, **({"from": "/ckpt"} if policy == "From" else {})}
        edited = {"checkpoint": {**spec["checkpoint"], "resume": resume}} if spec.get("suspend") else {}
        self.cluster.edit(suspend=suspend, **edited)
        self.operator.settle()

    def _name(self, slot: int) -> str | None:
        assert self.cluster.job is not None
        stored = parse_job(self.cluster.job).status.incarnations
        name = f"ranker-{slot}-{stored[slot]}" if len(stored) > slot else ""
        return name if name in self.cluster.pods else None

    def _uid(self, slot: int) -> str:
        name = self._name(slot)
        return str(self.cluster.pods[name]["metadata"]["uid"]) if name else ""

    def _running(self, slot: int) -> FakeLauncher | None:
        launcher = self.cluster.launchers.get(self._uid(slot))
        return launcher if launcher and launcher.phase is LauncherPhase.RUNNING else None

    def _speaks(self, slot: int) -> None:
        self.operator.hear(self._uid(slot))
        self.operator.settle()

    def _check(self, world: World, made: Plan) -> None:
        assert contradictions(world) == []
        assert plan_contradictions(world, made) == []
        assert world.job is not None
        self._remember(world.job.status)
        if made.status is not None:
            assert record_contradictions(world, made.status) == []

    def _remember(self, stored: TrainingJobStatus) -> None:
        attempt = stored.attempt
        if attempt is not None and attempt.origin is not None:
            self.origins[attempt.number].add(attempt.origin)

    @invariant()
    def no_attempt_has_two_origins(self) -> None:
        if self.cluster.job is not None:
            self._remember(parse_job(self.cluster.job).status)
        assert all(len(found) == 1 for found in self.origins.values())

    @invariant()
    def launchers_are_told_the_origin_that_is_stored(self) -> None:
        assert_origins_told(self.cluster, self.origins)


TestRecord = Record.TestCase
TestRecord.settings = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
