"""Facts of money for tests: short to write by hand, and strategies for any of them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from mlenv_operator.cost.facts import (
    DOLLAR,
    HOUR,
    SECOND,
    Attributed,
    Attribution,
    Category,
    Mark,
    Node,
    NodeMark,
    NodeUse,
    Pod,
)
from mlenv_operator.cost.metering import close
from mlenv_operator.cost.segments import Segment
from mlenv_operator.cost.shares import GPU_DOMINANT

if TYPE_CHECKING:
    from mlenv_operator.cost.allocation import Closing
    from mlenv_operator.cost.facts import Micros
    from mlenv_operator.cost.shares import Policy

MINUTE = 60 * SECOND
T0 = 490_000 * HOUR
"""The beginning of the hour under test."""


def node(**changes: object) -> Node:
    return replace(
        Node("n", "node-1", "aws", "us-east-1", "us-east-1a", "p5.48xlarge", "on-demand", gpus=8), **changes
    )


def pod(uid: str, **changes: object) -> Pod:
    made = Pod(uid, "team-a", f"pod-{uid}", f"job-{uid}", "n", gpus=1, scheduled=T0 - HOUR, started=T0 - HOUR)
    return replace(made, **changes)


def price(
    dollars: float, t0: Micros = 0, t1: Micros = 1 << 60, *, id_: str = "p1", listed: float = 0
) -> Segment:
    effective = round(dollars * DOLLAR)
    return Segment(t0, t1, id_, round(listed * DOLLAR) or effective, effective)


@dataclass(frozen=True)
class Trace:
    """All facts of one node-hour."""

    node: Node
    pods: tuple[Pod, ...] = ()
    marks: tuple[Mark, ...] = ()
    node_marks: tuple[NodeMark, ...] = ()
    attributed: tuple[Attributed, ...] = ()
    segments: tuple[Segment, ...] = field(default=(price(8),))
    policy: Policy = GPU_DOMINANT

    def close(self) -> Closing:
        facts = (self.pods, self.marks, self.node_marks, self.attributed, self.segments)
        return close(T0, self.node, *facts, self.policy)


# Moments around the hour, on a grid coarse enough that they often meet.
moments = st.integers(-8, 80).map(lambda step: T0 + step * MINUTE + (step % 3) * 333_333)
attributions = st.builds(Attribution, team=st.sampled_from("abc"), model=st.sampled_from(["", "m"]))
UIDS = ("u1", "u2", "u3", "u4")


@st.composite
def pods(draw: st.DrawFn, uid: str) -> Pod:
    times = [draw(st.none() | moments) for _ in range(3)]
    return Pod(
        uid,
        "team-a",
        uid,
        draw(st.sampled_from(["", "j1", "j2"])),
        draw(st.sampled_from(["n", "n", "n", "other"])),
        draw(st.integers(0, 8)),
        draw(st.sampled_from([0, 500, 7000])),
        draw(st.sampled_from([0, 3 << 30, 10**9 + 7])),
        draw(moments),
        *times,
        draw(st.booleans()),
    )


marks = st.builds(
    Mark, st.sampled_from(UIDS), moments, st.integers(0, 3), st.integers(0, 2), st.sampled_from(Category)
)
node_marks = st.builds(NodeMark, st.just("n"), moments, st.none() | st.sampled_from(NodeUse))
attributed = st.builds(Attributed, st.sampled_from(["j1", "j2"]), moments, attributions)
nodes = st.builds(
    Node,
    st.just("n"),
    st.just("node-1"),
    st.just("aws"),
    st.just("r"),
    st.just("z"),
    st.just("t"),
    st.just("spot"),
    gpus=st.sampled_from([0, 1, 7, 8]),
    cpu_milli=st.sampled_from([0, 4000, 7910]),
    memory_bytes=st.sampled_from([0, 16 << 30, 10**10 + 19]),
    created=st.just(0) | moments,
    deleted=st.none() | moments,
)


@st.composite
def segments(draw: st.DrawFn) -> tuple[Segment, ...]:
    cuts = sorted({draw(moments) for _ in range(draw(st.integers(0, 4)))} | {0, 1 << 60})
    found = []
    for t0, t1 in itertools.pairwise(cuts):
        id_ = draw(st.sampled_from(["", "p1", "p2", "p3", None]))
        if id_ is not None:
            cost = {"p1": 55_040_000_000, "p2": 7, "p3": 6_290_000_001}.get(id_, 0)
            found.append(Segment(t0, t1, id_, cost * 2, cost))
    return tuple(found)


@st.composite
def traces(draw: st.DrawFn, policies: st.SearchStrategy[Policy]) -> Trace:
    return Trace(
        draw(nodes),
        tuple(draw(pods(uid)) for uid in UIDS[: draw(st.integers(0, 4))]),
        tuple(draw(st.lists(marks, max_size=12, unique_by=lambda one: (one.pod_uid, one.at, one.sequence)))),
        tuple(draw(st.lists(node_marks, max_size=3, unique_by=lambda one: one.at))),
        tuple(draw(st.lists(attributed, max_size=4, unique_by=lambda one: (one.job_uid, one.since)))),
        draw(segments()),
        draw(policies),
    )
