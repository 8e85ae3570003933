"""Any order of anything: observations late, lost or in another order, writes refused, the operator killed."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from consistency import assert_origins_told, contradictions, plan_contradictions, record_contradictions
from fake_cluster import ApiError, FakeCluster, FakeLauncher, Raw, checkpoint
from fake_operator import FakeOperator, KilledError, restarted
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mlenv_api.protocol import LauncherPhase, Origin
from mlenv_api.trainingjob import AttemptState, TrainingJobStatus
from mlenv_operator.core.classify import TERMINAL
from mlenv_operator.core.plan import plan
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.world import BeatView

if TYPE_CHECKING:
    from mlenv_operator.core.actions import Plan
    from mlenv_operator.core.world import World

ENVIRONMENT: Raw = {
    "kind": "ClusterTrainingEnvironment",
    "metadata": {"name": "torch", "uid": "env-uid", "generation": 1},
    "spec": {"image": "registry/torch:1"},
}
EXIT_CODES = st.sampled_from([0, 1, 75, 76, 77, 78, 137])
SPOOL = {"spool": {"volumeClaimName": "claim"}}
picks = st.integers(min_value=0, max_value=5)


def specs() -> st.SearchStrategy[Raw]:
    return st.fixed_dictionaries(
        {
            "trainer": st.fixed_dictionaries(
                {
                    "image": st.just("img:1"),
                    "command": st.just(["train.py"]),
                    "numNodes": st.integers(1, 3),
                }
            ),
            "launcher": st.sampled_from(["MLEnv", "None"]),
            "failurePolicy": st.fixed_dictionaries({"maxRestarts": st.integers(0, 3)}),
            "scheduling": st.just({"assemblyTimeoutSeconds": 60}),
        },
        optional={
            "activeDeadlineSeconds": st.just(1000),
            "checkpoint": st.just(SPOOL),
            "environmentRef": st.just({"name": "torch"}),
            "suspend": st.sampled_from([False, False, False, True]),
        },
    )


class Life(RuleBasedStateMachine):
    """One job, from its creation to the last pod let go."""

    @initialize(spec=specs(), rounds=st.sampled_from([0, 2, 5, 8, 10]))
    def create(self, spec: Raw, rounds: int) -> None:
        self.cluster = FakeCluster(spec, environment=ENVIRONMENT)
        self.operator = FakeOperator(self.cluster, check=self._check)
        self.end: AttemptState | None = None
        self.formed: dict[int, set[Any]] = defaultdict(set)
        self.numbers: list[int] = []
        self.origins: dict[int, set[Any]] = defaultdict(set)
        self.all_goes_well(rounds)

    @rule(rounds=st.integers(3, 10))
    def all_goes_well(self, rounds: int) -> None:
        """Without this, random steps would hardly ever form a world."""
        for _ in range(rounds):
            self.nodes_come_back()
            self.all_pods_start()
            self.operator.sync()
            self.all_launchers_beat()
            self.operator.step()
            self.kubelets_finish_deletions()
            self._note()

    # ---- what the cluster does --------------------------------------------------------------------------

    def _pod(self, pick: int) -> str | None:
        names = sorted(self.cluster.pods)
        return names[pick % len(names)] if names else None

    def _launcher(self, pick: int) -> FakeLauncher | None:
        launchers = [self.cluster.launchers[uid] for uid in sorted(self.cluster.launchers)]
        return launchers[pick % len(launchers)] if launchers else None

    @rule(seconds=st.sampled_from([1, 6, 11, 31, 61, 700]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.now += timedelta(seconds=seconds)

    @rule()
    def all_pods_start(self) -> None:
        for place, name in enumerate(sorted(self.cluster.pods)):
            nodes = sorted(self.cluster.nodes)
            if nodes:
                self.cluster.run_pod(name, nodes[place % len(nodes)])

    @rule(pick=picks, code=EXIT_CODES)
    def a_container_ends(self, pick: int, code: int) -> None:
        name = self._pod(pick)
        if name is not None:
            self.cluster.end_pod(name, code)

    @rule(pick=picks)
    def somebody_deletes_a_pod(self, pick: int) -> None:
        name = self._pod(pick)
        if name is not None:
            self.cluster.delete_pod(name, self.cluster.pods[name]["metadata"]["uid"], by_operator=False)

    @rule()
    def kubelets_finish_deletions(self) -> None:
        for name in sorted(self.cluster.pods):
            self.cluster.finish_deletion(name)

    @rule(node=st.sampled_from(["n1", "n2", "n3"]), gone=st.booleans())
    def a_node_is_lost(self, node: str, *, gone: bool) -> None:
        if gone:
            self.cluster.remove_node(node)
        else:
            self.cluster.taint(node)

    @rule()
    def nodes_come_back(self) -> None:
        for node in ("n1", "n2", "n3"):
            self.cluster.nodes[node] = self.cluster._node(node)

    # ---- what launchers do ------------------------------------------------------------------------------

    @rule()
    def all_launchers_beat(self) -> None:
        for uid in sorted(self.cluster.launchers):
            self.operator.hear(uid)

    @rule(pick=picks)
    def a_launcher_beats(self, pick: int) -> None:
        uids = sorted(self.cluster.launchers)
        if uids:
            self.operator.hear(uids[pick % len(uids)])

    @rule(
        pick=picks,
        code=st.sampled_from([1, 76, 77, 77, 78]),
        message=st.sampled_from(["boom", "broken pipe"]),
    )
    def a_rank_fails(self, pick: int, code: int, message: str) -> None:
        launcher = self._launcher(pick)
        if launcher is not None and launcher.phase is LauncherPhase.RUNNING:
            launcher.fail(self.cluster.now, exit_code=code, message=message)

    @rule(steps=st.integers(1, 100), alone=st.booleans(), pick=picks)
    def ranks_seal(self, steps: int, pick: int, *, alone: bool) -> None:
        """One node may know it before the others do."""
        chosen = self._launcher(pick)
        for launcher in self.cluster.launchers.values():
            if launcher.phase is LauncherPhase.RUNNING and (launcher is chosen or not alone):
                launcher.step += steps
                launcher.seal(launcher.step)

    @rule(pick=picks, step=st.integers(0, 200), attempt=st.integers(0, 4), lost=st.booleans())
    def ranks_propose_what_to_run_from(self, pick: int, step: int, attempt: int, *, lost: bool) -> None:
        """Any launcher may; only the first one of the current attempt is heard, and only once."""
        launcher = self._launcher(pick)
        if launcher is not None and launcher.phase is LauncherPhase.RUNNING:
            before = min(attempt, launcher.attempt - 1)
            chosen = checkpoint(step, before) if before > 0 else None
            launcher.origin = Origin(checkpoint=chosen, lost=lost and chosen is None)
            launcher.step = step if chosen else 0

    @rule(pick=picks, step=st.integers(0, 10**6))
    def a_beat_of_an_older_attempt_comes_late(self, pick: int, step: int) -> None:
        uids = sorted(self.cluster.launchers)
        launcher = self._launcher(pick)
        if launcher is None or launcher.attempt < 2:
            return
        old = checkpoint(step, launcher.attempt - 1)
        beat = launcher.beat(self.cluster.now).model_copy(
            update={"attempt": launcher.attempt - 1, "sealed": old, "origin": Origin(checkpoint=old)}
        )
        self.operator.beats[uids[pick % len(uids)]] = BeatView(beat, self.cluster.now)

    @rule(pick=picks)
    def a_launcher_fails_while_it_waits(self, pick: int) -> None:
        launcher = self._launcher(pick)
        if launcher is not None and launcher.phase is LauncherPhase.WAITING:
            launcher.fail(self.cluster.now, rank=-1, local_rank=-1)

    @rule(pick=picks)
    def ranks_succeed(self, pick: int) -> None:
        launcher = self._launcher(pick)
        if launcher is not None and launcher.phase is LauncherPhase.RUNNING:
            launcher.phase = LauncherPhase.SUCCEEDED

    @rule()
    def all_ranks_succeed(self) -> None:
        for launcher in self.cluster.launchers.values():
            if launcher.phase is LauncherPhase.RUNNING:
                launcher.phase = LauncherPhase.SUCCEEDED

    @rule()
    def launchers_that_are_told_to_stop_end(self) -> None:
        for name, pod in list(self.cluster.pods.items()):
            launcher = self.cluster.launchers.get(pod["metadata"]["uid"])
            if launcher is not None and launcher.stopped:
                self.cluster.end_pod(name, 0 if launcher.phase is LauncherPhase.SUCCEEDED else 1)

    # ---- what people do ---------------------------------------------------------------------------------

    @rule(suspend=st.sampled_from([False, False, True]))
    def somebody_suspends_or_resumes(self, *, suspend: bool) -> None:
        self.cluster.edit(suspend=suspend)

    @precondition(lambda self: self.cluster.job is not None and self.cluster.job["spec"].get("suspend"))
    @rule(nodes=st.integers(1, 3))
    def somebody_edits_a_suspended_job(self, nodes: int) -> None:
        assert self.cluster.job is not None
        self.cluster.edit(trainer={**self.cluster.job["spec"]["trainer"], "numNodes": nodes})

    @precondition(lambda self: self.cluster.job is not None and self.cluster.job["spec"].get("suspend"))
    @rule(policy=st.sampled_from(["Auto", "Never", "From"]), spool=st.booleans())
    def somebody_asks_for_a_new_start(self, policy: str, *, spool: bool) -> None:
        assert self.cluster.job is not None
        if self.cluster.job["spec"].get("launcher") != "None":
            resume = {"policy": policy, **({"from": "/ckpt"} if policy == "From" else {})}
            self.cluster.edit(checkpoint={**(SPOOL if spool else {}), "resume": resume})

    @rule(restarts=st.integers(0, 3))
    def somebody_edits_the_budget(self, restarts: int) -> None:
        self.cluster.edit(failurePolicy={"maxRestarts": restarts})

    @rule(image=st.sampled_from(["a:1", "b:1"]))
    def the_platform_team_edits_the_environment(self, image: str) -> None:
        self.cluster.edit_environment(image=image)

    @rule(refuse=st.sampled_from([None, "exceeded quota: gpus", "violates PodSecurity"]))
    def the_api_server_refuses_pods(self, refuse: str | None) -> None:
        self.cluster.refuse = None if refuse is None else ApiError(403, refuse)

    @precondition(lambda self: len(self.numbers) > 2)
    @rule()
    def somebody_deletes_the_job(self) -> None:
        self.cluster.delete_job()

    @rule()
    def the_garbage_collector_passes(self) -> None:
        self.cluster.collect_garbage()

    # ---- what the operator does -------------------------------------------------------------------------

    @rule()
    def all_watches_catch_up(self) -> None:
        self.operator.sync()

    @rule(pick=picks)
    def one_pod_is_seen(self, pick: int) -> None:
        uids = sorted({*self.operator.pods, *(pod["metadata"]["uid"] for pod in self.cluster.pods.values())})
        if uids:
            self.operator.see_pod(uids[pick % len(uids)])

    @rule(times=st.integers(1, 4))
    def the_operator_looks(self, times: int) -> None:
        for _ in range(times):
            self.operator.step()

    @rule(step=st.integers(0, 6))
    def the_operator_is_killed(self, step: int) -> None:
        left = step

        def alive(_what: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        try:
            self.operator.step(alive)
        except KilledError:
            pass
        finally:
            self.operator = restarted(self.operator)

    # ---- what must hold ---------------------------------------------------------------------------------

    def _check(self, world: World, made: Plan) -> None:
        assert contradictions(world) == []
        assert plan_contradictions(world, made) == []
        assert plan(world) == made
        if world.job is not None:
            self._remember_origin(world.job.status)
        if made.status is not None and world.job is not None:
            assert record_contradictions(world, made.status) == []
            if made.move:
                self._check_move(world, world.job.status, made.status)

    def _remember_origin(self, stored: TrainingJobStatus) -> None:
        attempt = stored.attempt
        if attempt is not None and attempt.origin is not None:
            self.origins[attempt.number].add(attempt.origin)
            assert len(self.origins[attempt.number]) == 1, "what an attempt runs from is settled once"

    def _check_move(self, world: World, old: TrainingJobStatus, new: TrainingJobStatus) -> None:
        assert new.attempt is not None
        before = old.attempt.number if old.attempt else 1
        assert before <= new.attempt.number <= before + 1
        if new.restarts.counted > old.restarts.counted:
            assert world.job is not None
            assert world.job.spec is not None
            assert new.restarts.counted <= world.job.spec.failure_policy.max_restarts
        if old.attempt and old.attempt.state is AttemptState.RUNNING:
            assert new.attempt.number > before or new.attempt.state not in {
                AttemptState.ASSEMBLING,
                AttemptState.QUEUED,
            }

    @invariant()
    def moves_are_lawful(self) -> None:
        self._note()

    def _note(self) -> None:
        """What is stored now, against all that was stored before."""
        status = self._stored()
        if status is None or status.attempt is None:
            return
        self._remember_origin(status)
        state, number = status.attempt.state, status.attempt.number
        assert self.end in (None, state), "the end is the end"
        if state in TERMINAL:
            self.end = state
        if state is AttemptState.RUNNING:
            self.formed[number].add((status.attempt.rendezvous, status.incarnations))
            assert len(self.formed[number]) == 1, "an attempt is one world"
        if self.numbers[-1:] != [number]:
            self.numbers.append(number)
        assert self.numbers == sorted(self.numbers), "numbers only count up"

    @invariant()
    def launchers_are_told_the_origin_that_is_stored(self) -> None:
        assert_origins_told(self.cluster, self.origins)

    @invariant()
    def ranks_start_once_in_an_attempt_and_meet_in_one_place(self) -> None:
        places: dict[int, set[Any]] = defaultdict(set)
        slots = [(attempt, index) for attempt, index, _, _ in self.cluster.starts]
        assert len(set(slots)) == len(slots)
        for attempt, index, _uid, world in self.cluster.starts:
            places[attempt].add((world.master_addr, world.master_port, world.num_nodes))
            assert world.node_rank == index
        assert all(len(place) == 1 for place in places.values())

    def _stored(self) -> TrainingJobStatus | None:
        return parse_job(self.cluster.job).status if self.cluster.job else None

    def teardown(self) -> None:
        """Let everything heal: the job comes to rest, and once it is gone, so is all that it held."""
        if not hasattr(self, "cluster"):
            return
        self.cluster.refuse = None
        self.nodes_come_back()
        self.kubelets_finish_deletions()
        made = self.operator.settle()
        again = plan(self.operator.world())
        assert again.actions == made.actions == ()
        assert not again.move
        self.cluster.delete_job()
        for _ in range(3):
            self.cluster.collect_garbage()
            self.operator.sync()
            self.operator.step()
            self.kubelets_finish_deletions()
            self.cluster.now += timedelta(seconds=60)
        assert self.cluster.pods == {}


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=150,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
