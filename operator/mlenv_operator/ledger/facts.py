"""Reads facts back as they were told: what closes an hour, and what explains a job."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import and_, func, select

from mlenv_operator.cost.facts import Attributed, Category, Mark, Node, NodeMark, NodeUse, Pod
from mlenv_operator.cost.shares import GPU_DOMINANT
from mlenv_operator.ledger import schema, sharing
from mlenv_operator.ledger.intake import NODE_FIELDS
from mlenv_operator.ledger.names import attribution_from, chunks
from mlenv_operator.ledger.schema import FOREVER, WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy import Connection, Row, Select

    from mlenv_operator.cost.facts import Attribution, Micros
    from mlenv_operator.cost.segments import Segment
    from mlenv_operator.cost.shares import Policy


_CATEGORIES: Final = {number: one for number, one in WORDS.items() if isinstance(one, Category)}


@dataclass(slots=True)
class NodeFacts:
    """All that touches one hour (or more) of one node."""

    id: int
    machine_id: int
    node: Node
    pods: list[Pod] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    node_marks: list[NodeMark] = field(default_factory=list)
    attributed: list[Attributed] = field(default_factory=list)
    policy: Policy = GPU_DOMINANT
    """By which the hour is shared."""


def arguments(facts: NodeFacts, segments: Sequence[Segment]) -> tuple[Any, ...]:
    """As `cost.metering` takes them, after the hour."""
    about = facts.node, facts.pods, facts.marks, facts.node_marks, facts.attributed
    return *about, segments, facts.policy


@dataclass(slots=True)
class Facts:
    """Facts of several nodes, and the numbers of what they name."""

    nodes: list[NodeFacts]
    pod_ids: dict[str, int] = field(default_factory=dict)
    job_ids: dict[str, int] = field(default_factory=dict)
    attribution_ids: dict[Attribution, int] = field(default_factory=dict)


def read(connection: Connection, node_ids: Collection[int], start: Micros, end: Micros) -> Facts:
    """What touches [start, end) on these nodes, in the order of their numbers."""
    policy = sharing.policy_at(connection, start)
    by_id = {
        row.id: NodeFacts(row.id, row.machine_id, node_from(row), policy=policy)
        for row in _nodes(connection, node_ids)
    }
    facts = Facts([by_id[number] for number in sorted(by_id)])
    nodes_of = _read_pods(connection, facts, by_id, start, end)
    numbers = {number: uid for uid, number in facts.pod_ids.items()}
    for row in _marks(connection, numbers, start, end):
        one = Mark(numbers[row.pod_id], row.at, row.sequence, row.attempt, _CATEGORIES[row.category])
        nodes_of[row.pod_id].marks.append(one)
    _read_node_marks(connection, by_id, end)
    _read_attributed(connection, facts)
    return facts


def _nodes(connection: Connection, node_ids: Collection[int]) -> Iterable[Row[Any]]:
    for some in chunks(node_ids):
        yield from connection.execute(
            select(schema.node, schema.uid.c.uid)
            .join(schema.uid, schema.uid.c.id == schema.node.c.id)
            .where(schema.node.c.id.in_(some))
        )


def node_from(row: Row[Any]) -> Node:
    """As it was told."""
    return Node(uid=row.uid, **{name: getattr(row, name) for name in NODE_FIELDS})


def pods_query() -> Select[Any]:
    """Pods with the names of what they refer to."""
    job = schema.uid.alias("job")
    return (
        select(schema.pod, schema.uid.c.uid, job.c.uid.label("job_uid"))
        .join(schema.uid, schema.uid.c.id == schema.pod.c.id)
        .outerjoin(job, job.c.id == schema.pod.c.job_id)
    )


def pod_from(row: Row[Any], node_uid: str) -> Pod:
    """As it was told."""
    return Pod(
        uid=row.uid,
        namespace=row.namespace,
        name=row.name,
        job_uid=row.job_uid or "",
        node_uid=node_uid,
        gpus=row.gpus,
        cpu_milli=row.cpu_milli,
        memory_bytes=row.memory_bytes,
        scheduled=row.scheduled,
        started=row.started,
        finished=row.finished,
        released=None if row.released == FOREVER else row.released,
        telemetry=bool(row.telemetry),
    )


def _read_pods(
    connection: Connection, facts: Facts, by_id: dict[int, NodeFacts], start: Micros, end: Micros
) -> dict[int, NodeFacts]:
    at, nodes_of = schema.pod.c, {}
    for some in chunks(by_id):
        query = pods_query().where(at.node_id.in_(some), at.released > start, at.scheduled < end)
        for row in connection.execute(query.order_by(at.id)):
            owner = nodes_of[row.id] = by_id[row.node_id]
            owner.pods.append(pod_from(row, owner.node.uid))
            facts.pod_ids[row.uid] = row.id
            if row.job_uid:
                facts.job_ids[row.job_uid] = row.job_id
    return nodes_of


def _marks(connection: Connection, pods: Iterable[int], start: Micros, end: Micros) -> Iterable[Row[Any]]:
    """Marks of the time; of those before it the last of the newest attempt; and those outside the pod's life.

    The latter change nothing but the count of what was out of order.
    """
    mark, pod = schema.mark, schema.pod
    before, newest = mark.alias(), mark.alias()
    attempt = select(func.max(newest.c.attempt)).where(newest.c.pod_id == pod.c.id, newest.c.at < start)
    of_it = before.c.attempt == attempt.correlate(pod).scalar_subquery()
    last = select(func.max(before.c.at)).where(before.c.pod_id == pod.c.id, before.c.at < start, of_it)
    within = and_(mark.c.at >= func.coalesce(last.correlate(pod).scalar_subquery(), start), mark.c.at < end)
    early = and_(mark.c.at < pod.c.scheduled, mark.c.at < start)
    late = and_(mark.c.at > pod.c.released, mark.c.at >= end)
    found: dict[tuple[Any, ...], Row[Any]] = {}
    for some in chunks(pods):
        for which in (within, early, late):
            query = select(mark).select_from(pod).join(mark, and_(mark.c.pod_id == pod.c.id, which))
            found.update(
                (tuple(row), row) for row in connection.execute(query.where(pod.c.id.in_(some))).all()
            )
    return [found[key] for key in sorted(found)]


def _read_node_marks(connection: Connection, by_id: dict[int, NodeFacts], end: Micros) -> None:
    at = schema.node_mark.c
    for some in chunks(by_id):
        query = select(schema.node_mark).where(at.node_id.in_(some), at.at < end).order_by(at.node_id, at.at)
        for row in connection.execute(query):
            owner = by_id[row.node_id]
            use = NodeUse(WORDS[row.use]) if row.use else None
            owner.node_marks.append(NodeMark(owner.node.uid, row.at, use))


def _read_attributed(connection: Connection, facts: Facts) -> None:
    told: dict[str, list[Attributed]] = defaultdict(list)
    for one, number in attributed_to(connection, facts.job_ids):
        told[one.job_uid].append(one)
        facts.attribution_ids[one.to] = number
    for node in facts.nodes:
        jobs = dict.fromkeys(pod.job_uid for pod in node.pods if pod.job_uid)
        node.attributed = [one for job_uid in jobs for one in told[job_uid]]


def attributed_to(connection: Connection, jobs: dict[str, int]) -> list[tuple[Attributed, int]]:
    """To whom what these jobs spend belongs, since when, and the numbers of that."""
    uids = {number: uid for uid, number in jobs.items()}
    at, whom = schema.attributed.c, schema.attribution
    found = []
    for some in chunks(uids):
        query = (
            select(at.job_id.label("of_job"), at.since, whom)
            .join(whom, whom.c.id == at.attribution_id)
            .where(at.job_id.in_(some))
            .order_by(at.job_id, at.since, at.attribution_id)
        )
        rows = connection.execute(query)
        found += [(Attributed(uids[row.of_job], row.since, attribution_from(row)), row.id) for row in rows]
    return found


def due(facts: NodeFacts, end: Micros) -> Sequence[Pod]:
    """Pods that must have been released by now, as far as is known, and of which nobody has said so."""
    over = facts.node.deleted is not None and facts.node.deleted <= end
    return [pod for pod in facts.pods if pod.released is None and (over or (pod.finished or end) < end)]
