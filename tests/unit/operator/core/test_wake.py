"""Time alone must bring a job on: every deadline is in requeue_at before anything else happens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from worlds import NOW, ago, ended_pod, evidence, heard, pod, raw_job, raw_status, stamp, world

from mlenv_api.conditions import Reason
from mlenv_api.protocol import LauncherPhase
from mlenv_operator.core.plan import plan
from mlenv_operator.core.world import NodeView, Rejection, World

REJECTION = Rejection(Reason.QUOTA_EXCEEDED, "Pod x", "full", ago(-7))
NO_RANKS = {"attempt": {"rendezvous": None}}


def job(state: str, *, spec: dict[str, Any] | None = None, **status: Any) -> Any:
    return raw_job(status=raw_status(state, **status), **(spec or {}))


@pytest.mark.parametrize(
    ("what", "made", "seconds"),
    [
        ("the assembly's end", world(job=job("Assembling", since=100)), 1700),
        ("a delayed restart", world(job=job("Assembling", attempt={"notBefore": stamp(ago(-5))})), 5),
        ("the next try after a rejection", world(job=job("Assembling"), rejections=(REJECTION,)), 7),
        ("the queue's backoff", world(job=job("Queued", attempt={"notBefore": stamp(ago(-9))})), 9),
        (
            "the deadline",
            world(
                pod(0),
                pod(1),
                job=job("Running", spec={"launcher": "None", "activeDeadlineSeconds": 130}, **NO_RANKS),
            ),
            30,
        ),
        ("the silence of a launcher", world(pod(0), pod(1), beats={0: heard(), 1: heard(received=20)}), 40),
        (
            "the peer that may be to blame",
            world(
                pod(0),
                pod(1),
                beats={0: heard(evidence(time=ago(2), message="broken pipe")), 1: heard()},
            ),
            3,
        ),
        (
            "the loss of a node",
            world(
                pod(0),
                pod(1),
                beats={0: heard(), 1: heard()},
                nodes={"n1": NodeView("n1", ready=False, gone=True, since=ago(4))},
            ),
            6,
        ),
        ("the patience with a failed job's pods", world(pod(0), job=job("Failed", since=20)), 40),
        (
            "the end of a finished job",
            world(ended_pod(0, 0), job=job("Complete", since=20, spec={"ttlSecondsAfterFinished": 50})),
            30,
        ),
        ("another look at the environment", world(job=raw_job(environmentRef={"name": "torch"})), 300),
    ],
)
def test_a_plan_says_when_to_look_again(what: str, made: World, seconds: float) -> None:
    again = plan(made)
    assert not again.move
    assert again.requeue_at == NOW + timedelta(seconds=seconds), what


def test_a_gone_job_waits_for_the_loss_of_a_node() -> None:
    nodes = {"n1": NodeView("n1", ready=False, gone=True, since=ago(4))}
    assert plan(World(now=NOW, job=None, pods=(pod(0),), nodes=nodes)).requeue_at == ago(-6)


def test_a_move_is_followed_at_once() -> None:
    assert plan(world(job=raw_job())).requeue_at == NOW


def test_a_finished_job_with_nothing_left_needs_no_look() -> None:
    made = plan(world(ended_pod(0, 0), job=job("Complete")))
    assert (made.requeue_at, made.waits_for) == (None, "")


def test_a_world_whose_launchers_wait_needs_nothing_but_their_beats() -> None:
    waits = heard(phase=LauncherPhase.WAITING)
    made = plan(world(pod(0), pod(1), job=job("Assembling"), beats={0: waits}))
    assert made.waits_for == "pods and launchers"
