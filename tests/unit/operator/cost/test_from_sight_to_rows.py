"""From what the operator sees to what it costs: one pod, two attempts, one hour."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from worlds import raw_job, raw_pod, raw_status, stamp

from mlenv_api.protocol import Beat, LauncherPhase, Progress, Spent
from mlenv_operator.core.project import parse_job, project_node, project_pod
from mlenv_operator.core.world import BeatView
from mlenv_operator.cost.facts import DOLLAR, SECOND
from mlenv_operator.cost.metering import close
from mlenv_operator.cost.moments import micros
from mlenv_operator.cost.observe_attempts import attempt_marks, highest_step, turns, world_formed
from mlenv_operator.cost.observe_jobs import attributed
from mlenv_operator.cost.observe_nodes import next_mark
from mlenv_operator.cost.observe_pods import pod_fact
from mlenv_operator.cost.observe_spent import Meter, hear, tell
from mlenv_operator.cost.segments import Segment

HOUR = datetime.fromisoformat("2026-11-25T20:00:00Z")


def at(minute: float) -> datetime:
    return HOUR + timedelta(minutes=minute)


NODE: dict[str, Any] = {
    "metadata": {
        "name": "n1",
        "uid": "node-uid",
        "creationTimestamp": stamp(at(-30)),
        "labels": {"karpenter.sh/capacity-type": "spot", "node.kubernetes.io/instance-type": "p5.48xlarge"},
    },
    "spec": {"providerID": "aws:///us-east-1a/i-0"},
    "status": {
        "capacity": {"nvidia.com/gpu": "8", "cpu": "192", "memory": "2Ti"},
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": stamp(at(-28))}],
    },
}


def status(state: str, number: int, since: float, *records: dict[str, Any]) -> Any:
    raw = raw_status(state, attempt={"number": number, "since": stamp(at(since))}, attempts=list(records))
    raw["attempt"] |= {"number": number, "since": stamp(at(since))}
    return parse_job(raw_job(status=raw)).status


def beat(minute: float, attempt: int, step: int, **seconds: int) -> BeatView:
    spent = Spent(**{name: value * SECOND for name, value in seconds.items()}, time=at(minute))
    running = LauncherPhase.RUNNING
    said = Beat(
        protocol=1, attempt=attempt, phase=running, progress=Progress(step=step), spent=spent, time=at(minute)
    )
    return BeatView(said, at(minute))


def raw_held() -> dict[str, Any]:
    raw = raw_pod(
        state={"running": {"startedAt": stamp(at(2))}},
        conditions=[{"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(at(0))}],
    )
    raw["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "4"}}
    return raw


def test_every_minute_and_every_cent_is_where_it_belongs() -> None:
    node, pod = project_node(NODE), project_pod(raw_held())
    assert node.machine is not None
    assert pod is not None
    first = status("Running", 1, 3)
    failed = {
        "number": 1,
        "startTime": stamp(at(3)),
        "endTime": stamp(at(33)),
        "reason": "X",
        "lastStep": 100,
    }
    second = status("Running", 2, 34, failed)

    meter: Meter | None = None
    marks = set(attempt_marks(pod, turns(first)))
    for heard in (
        beat(8, 1, 10, init=240, productive=60),
        beat(33, 1, 100, init=240, productive=1440, data_wait=60, checkpoint_save=60),
    ):
        meter, more = hear(meter, pod.uid, heard, since=world_formed(first) or 0, highest=0)
        marks |= set(more)
    assert meter is not None
    marks |= set(tell(meter, 0, micros(at(33)))[1])

    marks |= set(attempt_marks(pod, turns(second)))
    highest = highest_step(second, 2)
    for heard in (
        beat(36, 2, 70, init=60, productive=60),
        beat(46, 2, 130, init=60, productive=600, data_wait=60),
    ):
        meter, more = hear(meter, pod.uid, heard, since=world_formed(second) or 0, highest=highest)
        marks |= set(more)
    assert meter is not None
    marks |= set(tell(meter, highest, micros(at(60)))[1])

    said = next_mark("node-uid", node.use, micros(at(0)), None, metered=True)
    job = parse_job(raw_job())
    told = attributed(job.attribution, micros(at(-5)), micros(at(0)), None)
    fact = pod_fact(pod, node.machine.uid, telemetry=True)
    assert (said, fact is None, told is None) == (None, False, False)
    assert fact is not None
    assert told is not None
    price = Segment(0, 1 << 60, "p", 120 * DOLLAR, 120 * DOLLAR)
    closing = close(micros(HOUR), node.machine, [fact], marks, [], [told], [price])

    found = {
        (str(row.use or row.category), row.attempt): (row.held / 60 / SECOND, row.cost / DOLLAR)
        for row in closing.rows
    }
    assert found == {
        ("fragmented", 0): (60, 60),
        ("startup", 0): (2, 2),
        ("init", 0): (1, 1),
        ("init", 1): (4, 4),
        ("productive", 1): (24, 24),
        ("data_wait", 1): (1, 1),
        ("checkpoint_save", 1): (1, 1),
        ("recovery", 2): (1, 1),
        ("init", 2): (1, 1),
        ("lost_work", 2): (5.5, 5.5),
        ("data_wait", 2): (1, 1),
        ("productive", 2): (18.5, 18.5),
    }
    assert (closing.total, closing.unpriced, closing.clamped) == (120 * DOLLAR, 0, 0)
