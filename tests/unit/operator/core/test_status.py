from __future__ import annotations

import math
from typing import Any

import pytest
from fake_cluster import checkpoint
from worlds import NOW, ago, heard, pod, raw_job, raw_status, scene, stamp, world

from mlenv_api import names
from mlenv_api.podtemplate import EnvironmentSpec, EnvVar
from mlenv_api.protocol import LauncherPhase
from mlenv_api.trainingjob import Condition, Trainer, TrainingJobSpec
from mlenv_operator.core.actions import CreatePod, Urgency
from mlenv_operator.core.finish import urgency
from mlenv_operator.core.plan import plan
from mlenv_operator.core.progress import decimal, progress
from mlenv_operator.core.project import parse_job
from mlenv_operator.core.quantity import quantity
from mlenv_operator.core.text import clip, last_line, mask
from mlenv_operator.core.validate import environment_problems, job_problems
from mlenv_operator.core.world import World

Raw = dict[str, Any]


def conditions(made: Any) -> dict[str, Condition]:
    assert made.status is not None
    return {one.type: one for one in made.status.conditions}


def waiting_pod(index: int, reason: str, message: str = "") -> Any:
    return pod(index, phase="Pending", state={"waiting": {"reason": reason, "message": message}})


def assembling(**status: Any) -> Raw:
    return raw_job(status=raw_status("Assembling", **status))


@pytest.mark.parametrize(
    ("reason", "message", "said", "sentence"),
    [
        (
            "ImagePullBackOff",
            'Back-off pulling image "nope:1": ErrImagePull: not found',
            "ImagePullFailed",
            "the image of pod ranker-1-0 cannot be pulled: not found. Check the image's name",
        ),
        ("InvalidImageName", 'couldn\'t parse "A B"', "ImagePullFailed", "couldn't parse"),
        (
            "ErrImageNeverPull",
            'Container image "x:1" is not present with pull policy of Never',
            "ImagePullFailed",
            "with pull policy of Never. Load the image into every node, or set imagePullPolicy",
        ),
        (
            "CreateContainerConfigError",
            'secret "wandb" not found',
            "ContainerConfigError",
            'secret "wandb" not found. Create what is missing in namespace ns',
        ),
    ],
)
def test_a_pod_that_waits_says_why_and_what_helps(
    reason: str, message: str, said: str, sentence: str
) -> None:
    beats = {0: heard()}
    made = plan(world(pod(0), waiting_pod(1, reason, message), job=assembling(since=5), beats=beats))
    ready = conditions(made)["PodsReady"]
    assert ready.reason == said
    assert sentence in ready.message
    assert ready.message.endswith("all pods are released after 1800 s")
    assert [event.reason for event in made.events] == [said]


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("0/2 nodes are available: 2 Insufficient cpu, 1 untolerated taint", "Ask for less per node"),
        ('persistentvolumeclaim "data" not found', "Create what is missing"),
        ("2 node(s) didn't match Pod's node affinity/selector", "Change nodeSelector or affinity"),
        ("2 node(s) had untolerated taint {gpu: }", "Tolerate the taint"),
        ("something new", "Ask for less per node"),
    ],
)
def test_a_pod_without_a_node_says_what_helps(said: str, helps: str) -> None:
    lost = pod(1, phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "message": said}])
    made = plan(world(pod(0), lost, job=assembling(since=5), beats={0: heard()}))
    assert f"1 of 2 pods cannot be scheduled: {said}. {helps}" in conditions(made)["PodsReady"].message


@pytest.mark.parametrize(("seconds", "slow"), [(59, False), (61, True)])
def test_a_pod_that_is_prepared_for_long_is_spoken_of(seconds: int, *, slow: bool) -> None:
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(ago(seconds))}
    state = {"waiting": {"reason": "ContainerCreating"}}
    late = pod(1, phase="Pending", state=state, conditions=[bound])
    made = plan(world(pod(0), late, job=assembling(since=90), beats={0: heard()}))
    assert ("kubectl describe pod -n ns ranker-1-0" in conditions(made)["PodsReady"].message) is slow
    if not slow:
        assert made.requeue_at == ago(-1), "so that it is said in time"


def test_a_back_off_does_not_overwrite_the_error() -> None:
    first = plan(world(pod(0), waiting_pod(1, "ErrImagePull", "no such tag"), job=assembling()))
    assert first.status is not None
    stored = raw_job(status=first.status.wire())
    second = plan(world(pod(0), waiting_pod(1, "ImagePullBackOff", 'Back-off pulling image "x"'), job=stored))
    assert second.status is None


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = plan(world(pod(0), pod(1), job=assembling()))
    assert first.status is not None
    wire = first.status.wire()
    for one in wire["conditions"]:
        one["lastTransitionTime"] = "2025-01-01T00:00:00Z"
    stored = raw_job(status=wire)
    stuck = plan(world(pod(0), waiting_pod(1, "ErrImagePull", "x"), job=stored))
    assert conditions(stuck)["PodsReady"].last_transition_time.year == 2025
    waits = heard(phase=LauncherPhase.WAITING)
    formed = plan(world(pod(0), pod(1), job=stored, beats={0: waits, 1: waits}))
    assert conditions(formed)["PodsReady"].last_transition_time == NOW
    assert conditions(formed)["Failed"].last_transition_time.year == 2025


def test_urgency_tells_news_from_numbers() -> None:
    stored = plan(world(job=assembling())).status
    assert stored is not None
    counted = stored.model_copy(update={"nodes": stored.nodes.model_copy(update={"ready": 1})})
    assert urgency(stored, stored) is Urgency.NONE
    assert urgency(stored, counted) is Urgency.PROGRESS
    bad = conditions_with(stored, reason="Unschedulable")
    assert urgency(stored, bad) is Urgency.CONDITION
    worded = conditions_with(stored, message="another word")
    assert urgency(stored, worded) is Urgency.PROGRESS


def conditions_with(status: Any, **change: Any) -> Any:
    first, *rest = status.conditions
    return status.model_copy(update={"conditions": (first.model_copy(update=change), *rest)})


def test_the_first_checkpoint_of_an_attempt_is_news_and_later_ones_are_numbers() -> None:
    def urgency_of(step: int, state: str = "Running", **stored: Any) -> Urgency:
        said = heard(sealed=checkpoint(step, 1))
        job = raw_job(status=raw_status(state), suspend=state == "Suspending")
        first = plan(world(pod(0), pod(1), job=job, beats={0: said, 1: said}))
        assert first.status is not None
        again = first.status.wire() | ({"checkpoint": stored} if stored else {})
        return plan(
            world(pod(0), pod(1), job={**job, "status": again}, beats={0: said, 1: said})
        ).status_urgency

    before = {"step": 5, "attempt": 1, "digest": "0" * 64}
    assert urgency_of(10) is Urgency.NONE
    assert urgency_of(10, sinceAttempt=1) is Urgency.CONDITION
    assert urgency_of(10, sealed=before) is Urgency.PROGRESS
    assert urgency_of(10, sealed={**before, "step": 11}) is Urgency.NONE, "an older one is no news"
    assert urgency_of(10, "Suspending", sealed=before) is Urgency.CONDITION, (
        "it may be the last that is heard"
    )


def test_a_stored_status_that_is_seen_again_is_not_written_again() -> None:
    first = plan(world(pod(0), pod(1), beats={0: heard(), 1: heard()}))
    assert first.status is not None
    again = plan(
        world(pod(0), pod(1), job=raw_job(status=first.status.wire()), beats={0: heard(), 1: heard()})
    )
    assert (again.status, again.status_urgency, again.events) == (None, Urgency.NONE, ())


def test_progress_comes_from_the_first_slot() -> None:
    said = {"step": 50, "total_steps": 100, "samples": 9, "steps_per_second": 2.5, "time": ago(1)}
    beats = {0: heard(progress={**said, "metrics": {"loss": math.nan, "auc": 0.81}}), 1: heard()}
    made = plan(world(pod(0), pod(1), beats=beats))
    assert made.status is not None
    told = made.status.progress
    assert told is not None
    assert (told.step, told.total_steps, told.steps_per_second) == (50, 100, "2.5")
    assert told.estimated_completion_time == ago(1 - 20)
    assert [(one.name, one.value) for one in told.metrics] == [("auc", "0.81"), ("loss", "NaN")]


@pytest.mark.parametrize(("step", "news"), [(49, False), (50, False), (51, True)])
def test_the_last_steps_of_a_second_are_news_and_what_was_said_is_none(step: int, *, news: bool) -> None:
    stored = {"step": 50, "samples": 9, "lastUpdateTime": stamp(ago(1).replace(microsecond=0))}
    job = raw_job(status=raw_status("Running", progress=stored))
    made = progress(scene(world(pod(0), job=job, beats={0: heard(progress={"step": step, "time": ago(1)})})))
    assert made is not None
    assert made.step == (step if news else 50)


@pytest.mark.parametrize(
    ("value", "text"), [(0.5, "0.5"), (1e-9, "1e-09"), (math.inf, "Infinity"), (-math.inf, "-Infinity")]
)
def test_numbers_as_status_keeps_them(value: float, text: str) -> None:
    assert decimal(value) == text


def test_an_invalid_spec_stalls_and_is_left_alone() -> None:
    env = [{"name": name, "value": "1"} for name in (names.ENV_FORK_SERVER, "RANK")]
    made = plan(World(now=NOW, job=parse_job(raw_job(trainer={"env": env}))))
    stalled = conditions(made)["Stalled"]
    assert (stalled.status, stalled.reason) == ("True", "InvalidSpec")
    assert "spec.trainer.env sets RANK, which the platform sets itself" in stalled.message
    assert names.ENV_FORK_SERVER not in stalled.message
    assert made.status is not None
    assert made.status.attempt is None
    assert made.actions == ()


def test_a_spec_that_cannot_be_read_stalls_even_a_live_job_without_ending_it() -> None:
    job = raw_job(status=raw_status("Running"), trainer={"numNodes": "many"})
    made = plan(world(pod(0), pod(1), job=job))
    assert conditions(made)["Stalled"].reason == "InvalidSpec"
    assert made.actions == ()
    assert made.status is not None
    assert made.status.attempt is not None
    assert made.status.attempt.state == "Running"


def test_a_status_of_a_newer_operator_is_not_touched() -> None:
    status = raw_status("Running", attempt={"state": "Dreaming"})
    made = plan(world(pod(0), pod(1), job=raw_job(status=status)))
    assert (made.actions, made.status) == ((), None)
    assert "upgrade the operator" in made.events[0].message


def test_a_live_job_is_not_judged_by_rules_that_came_later() -> None:
    job = raw_job(status=raw_status("Running"), trainer={"env": [{"name": "RANK", "value": "1"}]})
    made = plan(world(pod(0), pod(1), job=job, beats={0: heard(), 1: heard()}))
    assert conditions(made)["Stalled"].status == "False"


def spec_with(**trainer: Any) -> TrainingJobSpec:
    return TrainingJobSpec(trainer=Trainer(**{"image": "x", "command": ("t.py",), **trainer}))


def spooled(launcher: str = "MLEnv", checkpoint: Any = None, **pod: Any) -> TrainingJobSpec:
    spool = {"spool": {"volumeClaimName": "claim"}}
    spec = spec_with().model_dump() | {"launcher": launcher, "checkpoint": {**spool, **(checkpoint or {})}}
    return TrainingJobSpec.model_validate(spec | {"podTemplateOverrides": {"spec": pod}})


@pytest.mark.parametrize(
    "spec", [spooled(), spooled("None"), spooled(volume_mounts=({"name": "x", "mountPath": "/var/spool"},))]
)
def test_a_spool_is_no_mistake(spec: TrainingJobSpec) -> None:
    assert job_problems("job", spec) == ()


def test_an_environment_may_lie_where_spools_go_only_for_jobs_without_one() -> None:
    mounts = {"volume_mounts": [{"name": "x", "mountPath": "/var/spool/mlenv"}]}
    taken = EnvironmentSpec.model_validate({"image": "x", "pod_template": {"spec": mounts}})
    assert environment_problems(spec_with(), taken) == ()
    assert "podTemplate of the environment mounts" in environment_problems(spooled(), taken)[0]


@pytest.mark.parametrize(
    ("name", "spec", "word"),
    [
        ("x" * 53, spec_with(), "52 characters"),
        ("1job", spec_with(), "begins with a letter"),
        ("job", spec_with(image=None), "spec.trainer.image is missing"),
        ("job", spec_with(command=()), "spec.trainer.command is missing"),
        ("job", spec_with(env=(EnvVar(name="MLENV_X", value=""),)), "sets MLENV_X"),
        ("job", spec_with(args=("x" * 30_000,) * 10), "more than 262144"),
        (
            "job",
            spooled(volumes=({"name": "mlenv-spool", "emptyDir": {}},)),
            "a volume mlenv-spool, which the platform adds itself",
        ),
        ("job", spooled(volume_mounts=({"name": "x", "mountPath": "/var/spool/mlenv/"},)), "elsewhere"),
        ("job", spooled(volume_mounts=({"name": "x", "mountPath": "/var/spool/mlenv/deep"},)), "elsewhere"),
        ("job", spooled(launcher="None", checkpoint={"intervalSteps": 5}), "intervalSteps is read by our"),
        ("job", spooled(launcher="None", checkpoint={"resume": {"policy": "Never"}}), "checkpoint.resume is"),
    ],
)
def test_mistakes_become_sentences(name: str, spec: TrainingJobSpec, word: str) -> None:
    assert word in "; ".join(job_problems(name, spec))


def test_mistakes_of_an_environment_become_sentences() -> None:
    bad = EnvironmentSpec(image="x", env=(EnvVar(name="WORLD_SIZE", value="1"),))
    assert "WORLD_SIZE" in environment_problems(spec_with(), bad)[0]
    big = EnvironmentSpec(image="x", env=tuple(EnvVar(name=f"V{at}", value="x" * 32768) for at in range(9)))
    assert "ConfigMap" in environment_problems(spec_with(), big)[0]
    assert environment_problems(spec_with(), EnvironmentSpec(image="x")) == ()


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        (4, 4),
        ("500m", 1),
        ("1Gi", 2**30),
        ("1.5Ki", 1536),
        ("2k", 2000),
        ("1e3", 1000),
        ("x", None),
    ],
)
def test_quantities(text: str | int, number: int | None) -> None:
    assert quantity(text) == number


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("WANDB_API_KEY=abc failed", "WANDB_API_KEY=*** failed"),
        ("Authorization: Bearer eyJhbGciOi.x.y", "Authorization: Bearer ***"),
        ("s3://user:pass@host/b", "s3://user:***@host/b"),
        ("password: hunter2", "password: ***"),
        ("nothing here", "nothing here"),
    ],
)
def test_secrets_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


def test_the_last_line_of_a_traceback_is_its_error() -> None:
    assert last_line("Traceback\n  File x\nValueError: no\n\n") == "ValueError: no"
    assert clip("abcdef", 4) == "abc…"


def test_num_proc_per_node_falls_back_to_the_gpus() -> None:
    def nproc(**trainer: Any) -> str:
        made = plan(world(job=raw_job(status=raw_status("Assembling"), trainer=trainer)))
        first = next(step for step in made.actions if isinstance(step, CreatePod))
        env = {one["name"]: one.get("value") for one in first.manifest["spec"]["containers"][0]["env"]}
        return str(env["MLENV_NUM_PROC_PER_NODE"])

    gpus = {"limits": {"nvidia.com/gpu": "8"}}
    assert nproc() == "1"
    assert nproc(resourcesPerNode=gpus) == "8"
    assert nproc(resourcesPerNode=gpus, numProcPerNode=2) == "2"
