"""Whole lives of jobs: world, plan, world, until something is to be seen."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from fake_cluster import ApiError, Raw
from fake_operator import KilledError, restarted
from runs import Run

from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import AttemptState

ENVIRONMENT: Raw = {
    "kind": "ClusterTrainingEnvironment",
    "metadata": {"name": "torch", "uid": "env-uid", "generation": 3},
    "spec": {"image": "registry/torch:1", "env": [{"name": "OMP_NUM_THREADS", "value": "2"}]},
}


def test_a_job_assembles_runs_and_completes() -> None:
    run = Run().settle()
    assert run.names() == ["ranker-0-0", "ranker-1-0"]
    assert run.state is AttemptState.ASSEMBLING
    run.running()
    assert run.state is AttemptState.RUNNING
    assert run.status.phase == "Running"
    assert run.condition("PodsReady")[:2] == ("True", "AllPodsReady")
    assert run.condition("Reconciling")[0] == "False"
    assert run.status.nodes.names == ("n1", "n2")
    assert [(attempt, index) for attempt, index, _, _ in run.cluster.starts] == [(1, 0), (1, 1)]
    run.finish()
    assert run.state is AttemptState.COMPLETE
    assert run.condition("Complete") == ("True", "Completed", "2 nodes finished with exit code 0")
    assert all(launcher.stopped for launcher in run.beat().cluster.launchers.values())


@pytest.mark.parametrize("environment", [None, ENVIRONMENT])
@pytest.mark.parametrize("nodes", [1, 4, 16])
def test_a_gang_costs_few_writes_until_it_runs(nodes: int, environment: Raw | None) -> None:
    run = Run(nodes=nodes, environment=environment).running()
    assert run.state is AttemptState.RUNNING
    assert len(run.cluster.writes) <= nodes + 5, Counter(run.cluster.writes)


def test_a_gang_whose_pods_start_one_by_one_costs_as_few() -> None:
    run = Run(nodes=4).settle()
    for place, name in enumerate(run.names()):
        run.cluster.run_pod(name, f"n{place % 3 + 1}")
        run.after(1).beat()
    assert run.state is AttemptState.RUNNING
    assert len(run.cluster.writes) <= 9, Counter(run.cluster.writes)


def test_a_crashed_rank_is_cured_in_the_same_pods() -> None:
    run = Run().running()
    run.launcher("ranker-1-0").fail(run.cluster.now, rank=1, exit_code=1)
    run.after(2).beat().beat()
    assert run.state is AttemptState.RUNNING
    assert run.status.attempt is not None
    assert run.status.attempt.number == 2
    assert run.names() == ["ranker-0-0", "ranker-1-0"]
    assert run.status.restarts.counted == 1
    record = run.status.attempts[0]
    assert (record.number, record.index, record.exit_code, record.counted) == (1, 1, 1, True)
    assert "rank 1 in pod ranker-1-0 on node n2 ended with exit code 1: RuntimeError: boom" in record.message
    assert [one for one, *_ in run.cluster.starts] == [1, 1, 2, 2]
    assert run.launcher("ranker-1-0").evidence == []


def test_the_budget_of_restarts_ends() -> None:
    run = Run(failurePolicy={"maxRestarts": 1}).running()
    for _ in range(2):
        run.launcher("ranker-0-0").fail(run.cluster.now)
        run.after(100).beat().beat()
    assert run.state is AttemptState.FAILED
    status, reason, message = run.condition("Failed")
    assert (status, reason) == ("True", "MaxRestartsExceeded")
    assert message.startswith("failurePolicy.maxRestarts (1) is used up; the last failure: rank 0 in pod")
    assert run.condition("Stalled")[:2] == ("True", "MaxRestartsExceeded")
    assert [one.number for one in run.status.attempts] == [2, 1]


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ({"exit_code": 78}, "DoNotRetry"),
        (
            {"exit_code": 127, "reason": "CommandNotFound", "message": "trian.py: not found"},
            "CommandNotFound",
        ),
    ],
)
def test_what_no_retry_mends_fails_at_once(what: Raw, reason: str) -> None:
    run = Run().running()
    run.launcher("ranker-0-0").fail(run.cluster.now, **what)
    run.beat()
    assert run.condition("Failed")[1] == reason
    assert run.status.restarts.total == 0


def test_a_lost_node_costs_one_pod_and_no_budget() -> None:
    run = Run().running()
    run.cluster.remove_node("n2")
    run.after(30).settle()
    run.after(11).settle()
    assert run.state is AttemptState.ASSEMBLING
    assert run.names() == ["ranker-0-0", "ranker-1-1"]
    assert run.status.restarts.total == 1
    assert run.status.restarts.counted == 0
    assert run.condition("Restarting")[0] == "True"
    assert run.status.phase == "Restarting"
    run.running()
    assert run.state is AttemptState.RUNNING
    assert run.condition("Restarting")[0] == "False"


def test_an_unreachable_node_is_lost_only_when_its_launcher_is_silent() -> None:
    run = Run().running()
    run.cluster.taint("n2")
    for _ in range(5):
        run.after(30).beat()
    assert run.state is AttemptState.RUNNING
    run.cluster.launchers.pop(run.cluster.pods["ranker-1-0"]["metadata"]["uid"])
    run.after(59).beat()
    assert run.state is AttemptState.RUNNING
    run.after(2).settle()
    assert run.state is AttemptState.ASSEMBLING
    assert run.status.attempts[0].reason == "NodeLost"


def test_a_deleted_pod_is_replaced() -> None:
    run = Run().running()
    run.cluster.delete_pod("ranker-0-0", run.cluster.pods["ranker-0-0"]["metadata"]["uid"], by_operator=False)
    run.settle()
    assert run.status.attempts[0].reason == "PodLost"
    assert not run.status.attempts[0].counted
    run.cluster.finish_deletion("ranker-0-0")
    run.settle()
    assert run.names() == ["ranker-0-1", "ranker-1-0"]
    run.running()
    assert run.state is AttemptState.RUNNING


def test_a_peer_that_hears_first_is_not_blamed() -> None:
    run = Run().running()
    run.launcher("ranker-0-0").fail(run.cluster.now, message="Connection reset by peer")
    run.after(1).beat()
    assert run.state is AttemptState.RUNNING
    run.launcher("ranker-1-0").fail(run.cluster.now, rank=1, exit_code=None, signal="SIGKILL")
    run.after(1).beat()
    assert run.status.attempts[0].index == 1
    assert "was killed by SIGKILL" in run.status.attempts[0].message


def test_a_peer_loss_without_a_culprit_is_acted_on_after_a_while() -> None:
    run = Run().running()
    run.launcher("ranker-0-0").fail(run.cluster.now, message="Connection reset by peer")
    run.after(1).beat()
    assert run.state is AttemptState.RUNNING
    assert run.operator.last is not None
    assert run.operator.last.requeue_at is not None
    assert (run.operator.last.requeue_at - run.cluster.now).total_seconds() <= 5
    run.after(5).beat()
    assert run.status.attempts[0].index == 0


def test_without_our_launcher_the_whole_gang_is_replaced() -> None:
    run = Run(launcher="None").start_pods()
    assert run.state is AttemptState.RUNNING
    assert not [one for one in run.status.conditions if one.type == "LauncherConnected"]
    run.cluster.end_pod("ranker-1-0", 3)
    run.settle()
    assert run.names() == ["ranker-0-0"]  # waits for the old master's end
    run.cluster.finish_deletion("ranker-0-0")
    run.settle()
    assert run.names() == ["ranker-0-1", "ranker-1-1"]
    run.start_pods()
    for name in run.names():
        run.cluster.end_pod(name, 0)
    run.settle()
    assert run.state is AttemptState.COMPLETE
    assert run.names() == ["ranker-0-1", "ranker-1-1"]  # finished pods stay
    assert all(not pod["metadata"]["finalizers"] for pod in run.cluster.pods.values())


def test_a_short_program_without_our_launcher_completes_though_its_pods_never_ran_together() -> None:
    run = Run(launcher="None").settle()
    run.cluster.run_pod("ranker-0-0", "n1")
    run.cluster.end_pod("ranker-0-0", 0)
    run.settle()
    run.cluster.run_pod("ranker-1-0", "n1")
    run.cluster.end_pod("ranker-1-0", 0)
    run.settle()
    assert run.state is AttemptState.COMPLETE


def test_peers_of_a_failed_gang_without_our_launcher_are_deleted_at_once() -> None:
    run = Run(launcher="None", failurePolicy={"maxRestarts": 0}).start_pods()
    run.cluster.end_pod("ranker-1-0", 3)
    run.settle()
    assert run.state is AttemptState.FAILED
    assert run.cluster.pods["ranker-0-0"]["metadata"]["deletionTimestamp"]
    assert "ranker-1-0" in run.cluster.pods


def test_pods_of_a_failed_job_get_a_minute_to_obey() -> None:
    run = Run(failurePolicy={"maxRestarts": 0}).running()
    run.launcher("ranker-0-0").fail(run.cluster.now)
    run.beat(hear_twice=False).settle()
    assert run.state is AttemptState.FAILED
    run.after(59).settle()
    assert not any(pod["metadata"].get("deletionTimestamp") for pod in run.cluster.pods.values())
    run.after(2).settle()
    assert all(pod["metadata"].get("deletionTimestamp") for pod in run.cluster.pods.values())


def test_suspend_and_resume_start_anew_with_the_current_spec_and_environment() -> None:
    environment = {**ENVIRONMENT}
    run = Run(environment=environment).running()
    run.cluster.edit_environment(image="registry/torch:2")
    run.settle()
    assert run.state is AttemptState.RUNNING
    run.cluster.edit(suspend=True)
    run.settle()
    assert run.state is AttemptState.SUSPENDING
    assert run.condition("Suspended")[0] == "False"
    for name in run.names():
        run.cluster.finish_deletion(name)
    run.settle()
    assert run.names() == []
    assert run.condition("Suspended")[:2] == ("True", "Suspended")
    assert run.status.phase == "Suspended"
    trainer = {**run.cluster.job["spec"]["trainer"], "numNodes": 3}  # type: ignore[index]
    run.cluster.edit(trainer=trainer)
    run.settle()
    run.cluster.edit(suspend=False)
    run.settle()
    assert run.names() == ["ranker-0-1", "ranker-1-1", "ranker-2-1"]
    assert run.status.environment is not None
    assert run.status.environment.generation == 4
    run.running()
    assert run.status.attempt is not None
    assert run.status.attempt.number == 2
    assert run.status.restarts.total == 0
    assert run.condition("Suspended")[0] == "False"


def test_a_job_edited_between_two_looks_does_not_mix_two_specs() -> None:
    run = Run().running()
    trainer = {**run.cluster.job["spec"]["trainer"], "image": "img:2"}  # type: ignore[index]
    run.cluster.edit(trainer=trainer)
    run.settle()
    assert run.state is AttemptState.SUSPENDING
    for name in run.names():
        run.cluster.finish_deletion(name)
    run.settle()
    assert run.state is AttemptState.ASSEMBLING
    images = {pod["spec"]["containers"][0]["image"] for pod in run.cluster.pods.values()}
    assert images == {"img:2"}


def test_what_may_change_while_live_changes_nothing_else() -> None:
    run = Run().running()
    run.cluster.edit(failurePolicy={"maxRestarts": 9}, ttlSecondsAfterFinished=60)
    run.settle()
    assert run.state is AttemptState.RUNNING
    assert run.status.observed_generation == 2
    assert run.status.run_generation == 1


def test_a_job_that_is_born_suspended_starts_as_attempt_one() -> None:
    run = Run(suspend=True).settle()
    assert run.state is AttemptState.SUSPENDED
    assert run.names() == []
    run.cluster.edit(suspend=False)
    run.settle()
    assert run.names() == ["ranker-0-0", "ranker-1-0"]
    assert run.status.attempt is not None
    assert run.status.attempt.number == 1


def test_an_unschedulable_gang_is_released_as_a_whole_and_says_why() -> None:
    run = Run(scheduling={"assemblyTimeoutSeconds": 600}).settle()
    run.cluster.run_pod("ranker-0-0", "n1")
    why = "0/2 nodes are available: 2 Insufficient nvidia.com/gpu. preemption: 0/2 nodes are available."
    run.cluster.set_unschedulable("ranker-1-0", why)
    run.settle()
    assert run.condition("PodsReady") == (
        "False",
        "Unschedulable",
        (
            "1 of 2 pods cannot be scheduled: 0/2 nodes are available: 2 Insufficient nvidia.com/gpu. Ask for"
            " less per node in spec.trainer.resourcesPerNode, or free capacity; all pods are released after"
            " 600 s"
        ),
    )
    run.after(600).settle()
    assert run.state is AttemptState.QUEUED
    assert run.status.attempt is not None
    assert run.status.attempt.not_before is not None
    assert run.condition("PodsReady")[1] == "AssemblyTimedOut"
    assert "Insufficient nvidia.com/gpu" in run.condition("PodsReady")[2]
    run.cluster.finish_deletion("ranker-0-0")
    run.settle()
    assert run.names() == []
    wait = (run.status.attempt.not_before - run.cluster.now).total_seconds()
    assert 24 <= wait <= 36
    run.after(wait).settle()
    assert run.names() == ["ranker-0-1", "ranker-1-1"]
    assert run.status.attempt.number == 1
    assert run.status.active_seconds == 600


def test_a_full_quota_is_said_and_tried_again_with_one_pod() -> None:
    run = Run(nodes=4)
    run.cluster.refuse = ApiError(403, 'pods "ranker-0-0" is forbidden: exceeded quota: gpus')
    run.settle()
    assert run.condition("PodsReady")[:2] == ("False", "QuotaExceeded")
    assert run.condition("Stalled")[0] == "False"
    posts = [line for line in run.cluster.writes if line.startswith("create pod")]
    assert posts == ["create pod ranker-0-0"]
    run.after(11).settle()
    assert len([line for line in run.cluster.writes if line.startswith("create pod")]) == 2
    run.cluster.refuse = None
    run.after(21).settle()
    assert len(run.names()) == 4
    assert run.condition("PodsReady")[1] == "WaitingForPods"


def test_a_rejected_pod_stalls_the_job_and_an_operator_restart_does_not_flap() -> None:
    run = Run()
    run.cluster.refuse = ApiError(403, 'violates PodSecurity "restricted:latest": runAsNonRoot')
    run.settle()
    assert run.condition("Stalled")[:2] == ("True", "PodSecurityViolation")
    assert run.status.phase == "Stalled"
    before = len(run.cluster.writes)
    run.operator = restarted(run.operator)
    run.settle()
    assert run.cluster.writes[before:] == ["create pod ranker-0-0"]
    assert run.condition("Stalled")[:2] == ("True", "PodSecurityViolation")


@pytest.mark.parametrize("nodes", [1, 4])
@pytest.mark.parametrize("trouble", ["quota", "security", "image", "unschedulable"])
def test_a_broken_job_settles(trouble: str, nodes: int) -> None:
    """Watched for half an hour, second by second where something happens."""
    run = Run(nodes=nodes)
    if trouble == "quota":
        run.cluster.refuse = ApiError(403, "exceeded quota: gpus")
    if trouble == "security":
        run.cluster.refuse = ApiError(403, "violates PodSecurity")
    minutes: Counter[int] = Counter()
    for second in range(0, 1700, 5):
        before = len(run.cluster.writes)
        if run.names() and trouble == "image":
            reason = "ErrImagePull" if second % 20 else "ImagePullBackOff"
            message = "not found" if second % 20 else 'Back-off pulling image "x"'
            for name in run.names():
                run.cluster.set_waiting(name, reason, message)
        if run.names() and trouble == "unschedulable":
            for name in run.names():
                run.cluster.set_unschedulable(name, "0/2 nodes are available: 2 Insufficient cpu")
        run.settle()
        minutes[second // 60] += len(run.cluster.writes) - before
        run.after(5)
    assert all(count <= 1 for minute, count in minutes.items() if minute > 0), minutes


@pytest.mark.parametrize("launcher", ["MLEnv", "None"])
def test_a_program_that_always_fails_at_once_settles(launcher: str) -> None:
    run = Run(nodes=1, launcher=launcher, failurePolicy={"maxRestarts": 1000})
    minutes: Counter[int] = Counter()
    for second in range(0, 4 * 3600, 15):
        before = len(run.cluster.writes)
        for name in run.names():
            run.cluster.run_pod(name, "n1")
            run.cluster.finish_deletion(name)
        for fake in list(run.cluster.launchers.values()):
            if fake.phase is LauncherPhase.RUNNING:
                fake.fail(run.cluster.now)
        if launcher == "None" and run.state is AttemptState.RUNNING:
            for name in run.names():
                run.cluster.end_pod(name, 1)
        run.beat()
        minutes[second // 60] += len(run.cluster.writes) - before
        run.after(15)
    last_hours = sum(count for minute, count in minutes.items() if minute > 120)
    assert last_hours <= 120, minutes


def test_an_unknown_environment_is_said_and_taken_once_it_is_there() -> None:
    run = Run(environment=ENVIRONMENT)
    run.cluster.environment = None
    run.settle()
    assert run.condition("Stalled") == (
        "True",
        "EnvironmentNotFound",
        (
            "ClusterTrainingEnvironment torch does not exist. Create it, or name another one in"
            " spec.environmentRef of a new job"
        ),
    )
    assert run.status.phase == "Stalled"
    run.cluster.environment = ENVIRONMENT
    run.settle()
    assert run.names() == ["ranker-0-0", "ranker-1-0"]
    assert run.condition("Stalled")[0] == "False"


def test_a_lost_snapshot_is_put_back_or_said() -> None:
    run = Run(environment=ENVIRONMENT).running()
    run.cluster.revisions.clear()
    run.cluster.remove_node("n1")
    run.after(11).settle()
    assert run.cluster.revisions
    run.running()
    run.cluster.revisions.clear()
    run.cluster.edit_environment(image="other")
    run.cluster.remove_node("n2")
    run.after(11).settle()
    assert run.condition("Stalled")[:2] == ("True", "EnvironmentNotFound")


def test_the_deadline_counts_active_time_only() -> None:
    run = Run(activeDeadlineSeconds=100).running()
    run.after(60)
    run.cluster.edit(suspend=True)
    run.settle()
    for name in run.names():
        run.cluster.finish_deletion(name)
    run.settle().after(1000)
    run.cluster.edit(suspend=False)
    run.running().after(39).beat()
    assert run.state is AttemptState.RUNNING
    run.after(2).settle()
    assert run.state is AttemptState.FAILED
    assert run.condition("Failed")[1] == "DeadlineExceeded"


def test_a_finished_job_is_deleted_after_its_time_and_its_pods_are_let_go() -> None:
    run = Run(ttlSecondsAfterFinished=100).running().finish()
    for name in run.names():
        run.cluster.end_pod(name, 0)
    run.settle().after(99).settle()
    assert run.cluster.job is not None
    run.after(1).settle()
    assert run.cluster.job is None
    run.cluster.collect_garbage()
    run.settle()
    assert run.names() == []


def test_a_job_deleted_while_it_runs_leaves_nothing() -> None:
    run = Run().running()
    run.cluster.delete_job()
    run.cluster.collect_garbage()
    run.settle()
    assert run.names() == ["ranker-0-0", "ranker-1-0"]
    for name in run.names():
        run.cluster.finish_deletion(name)
    run.settle()
    assert run.names() == []


def test_another_controllers_job_is_left_alone() -> None:
    run = Run(managedBy="kueue.x-k8s.io/multikueue").settle()
    assert run.cluster.writes == []


def test_a_silent_launcher_is_spoken_of_and_not_restarted() -> None:
    run = Run().start_pods()
    run.after(61).settle()
    status, reason, message = run.condition("LauncherConnected")
    assert (status, reason) == ("False", "NoHeartbeat")
    assert "http://10.96.0.9:8080" in message
    assert "NetworkPolicy" in message
    run.beat().beat()
    assert run.state is AttemptState.RUNNING
    assert run.condition("LauncherConnected")[:2] == ("True", "Connected")
    run.after(61).settle()
    assert run.condition("LauncherConnected")[:2] == ("False", "NoHeartbeat")
    assert run.state is AttemptState.RUNNING


def test_a_new_operator_waits_before_it_calls_launchers_silent() -> None:
    run = Run().running().after(1000)
    run.operator = restarted(run.operator)
    run.settle()
    assert run.condition("LauncherConnected")[0] == "True"
    assert run.state is AttemptState.RUNNING


@pytest.mark.parametrize("how", ["complete", "failed"])
def test_what_has_ended_stays_ended(how: str) -> None:
    run = Run(failurePolicy={"maxRestarts": 0}, activeDeadlineSeconds=1000).running()
    if how == "failed":
        run.launcher("ranker-0-0").fail(run.cluster.now)
    run = run.finish() if how == "complete" else run.beat()
    end, finished = run.state, run.status.completion_time
    assert end in {AttemptState.COMPLETE, AttemptState.FAILED}
    run.cluster.edit(suspend=True)
    run.settle().after(2000).settle()
    run.cluster.edit(suspend=False, failurePolicy={"maxRestarts": 9})
    run.cluster.remove_node("n1")
    run.settle().after(100).settle()
    assert run.state is end
    assert run.status.completion_time == finished
    assert run.status.observed_generation == 3


def killed_at(step: int) -> Any:
    """Dies before the write of this number."""
    count = 0

    def alive(_what: str) -> None:
        nonlocal count
        count += 1
        if count > step:
            raise KilledError

    return alive


@pytest.mark.parametrize("step", range(12))
@pytest.mark.parametrize("launcher", ["MLEnv", "None"])
def test_an_operator_killed_before_any_write_leaves_a_job_that_ends_the_same(
    launcher: str, step: int
) -> None:
    run = Run(nodes=3, launcher=launcher, environment=ENVIRONMENT)
    alive = killed_at(step)
    try:
        for _ in range(30):
            run.operator.sync()
            for uid in list(run.cluster.launchers):
                run.operator.hear(uid)
            run.operator.step(alive)
            for name in run.names():
                run.cluster.run_pod(name, "n1")
    except KilledError:
        run.operator = restarted(run.operator)
    run.running()
    assert run.state is AttemptState.RUNNING
    assert run.names() == ["ranker-0-0", "ranker-1-0", "ranker-2-0"]
    if launcher == "None":
        for name in run.names():
            run.cluster.end_pod(name, 0)
    run.settle().finish()
    assert run.state is AttemptState.COMPLETE
    assert len([line for line in run.cluster.writes if line.startswith("create pod")]) <= 4


def test_progress_reaches_the_status_of_a_running_job() -> None:
    run = Run().running()
    run.launcher("ranker-0-0").step = 40
    run.after(20).beat()
    assert run.status.progress is not None
    assert run.status.progress.step == 40
    assert run.status.progress.samples == 1280
