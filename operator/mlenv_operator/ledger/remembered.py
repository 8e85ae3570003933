"""What whoever goes on with the books must know of what was told before: read once, by each new leader."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select

from mlenv_operator.cost.facts import NodeMark, NodeUse
from mlenv_operator.ledger import facts, meters, names, schema
from mlenv_operator.ledger.schema import DONE, FOREVER, WORDS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Connection

    from mlenv_operator.cost.facts import Attributed, Node, Pod
    from mlenv_operator.cost.observe_spent import Meter


@dataclass(frozen=True, slots=True)
class Remembered:
    """What was told last, of all that may go on."""

    nodes: tuple[Node, ...] = ()
    """Those of which an hour is open, oldest first."""
    node_marks: tuple[NodeMark, ...] = ()
    """The last one of each."""
    pods: tuple[Pod, ...] = ()
    """Those of which nobody has told the end."""
    meters: tuple[Meter, ...] = ()
    attributed: tuple[Attributed, ...] = ()
    """The last one of each job that was asked for."""


def read(connection: Connection, job_uids: Collection[str]) -> Remembered:
    """Read it. `job_uids`: the jobs that there are now."""
    nodes = connection.execute(
        select(schema.node, schema.uid.c.uid)
        .join(schema.uid, schema.uid.c.id == schema.node.c.id)
        .where(schema.node.c.next_hour != DONE)
        .order_by(schema.node.c.created, schema.node.c.id)
    ).all()
    uids = {row.id: str(row.uid) for row in nodes}
    return Remembered(
        nodes=tuple(facts.node_from(row) for row in nodes),
        node_marks=tuple(_node_marks(connection, uids)),
        pods=tuple(_pods(connection, uids)),
        meters=tuple(meters.read(connection)),
        attributed=tuple(_attributed(connection, job_uids)),
    )


def _node_marks(connection: Connection, uids: Mapping[int, str]) -> Iterable[NodeMark]:
    at = schema.node_mark.c
    last = select(at.node_id, func.max(at.at).label("at")).group_by(at.node_id).subquery()
    query = select(schema.node_mark).join(last, and_(at.node_id == last.c.node_id, at.at == last.c.at))
    for row in connection.execute(query.order_by(at.node_id, at.use)):
        if row.node_id in uids:
            yield NodeMark(uids[row.node_id], row.at, NodeUse(WORDS[row.use]) if row.use else None)


def _pods(connection: Connection, uids: Mapping[int, str]) -> Iterable[Pod]:
    at = schema.pod.c
    for some in names.chunks(uids):
        query = facts.pods_query().where(at.node_id.in_(some), at.released == FOREVER)
        for row in connection.execute(query.order_by(at.id)):
            yield facts.pod_from(row, uids[row.node_id])


def _attributed(connection: Connection, job_uids: Collection[str]) -> Iterable[Attributed]:
    numbers = names.find(connection, schema.uid, "uid", job_uids)
    last = {one.job_uid: one for one, _ in facts.attributed_to(connection, numbers)}
    return last.values()
